"""Selective erasing, features, averages, watching and recipes, on a tiny pipeline."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from memfast.cli.app import app
from memfast.errors import InputError
from memfast.files import read_json
from memfast.measuring.cases import load_cases
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule
from memfast.prompts import Prompt, PromptSet
from memfast.repairing.erasing.perturbing import matrices, perturb
from memfast.repairing.erasing.selecting import LEVELS, fisher, selected_weights
from memfast.repairing.recipes import RECIPES, recipe
from memfast.repairing.run import repair
from memfast.repairing.samples import samples_of, with_images
from memfast.repairing.settings import RepairSettings
from memfast.repairing.teaching.averaging import Average
from memfast.repairing.teaching.features import Outputs, blocks_of, distance
from memfast.repairing.teaching.watching import Look, Watch

SCHEDULE = {"num_inference_steps": 2, "guidance_scale": 1.5}
REFERENCE = ["red b", "blue c", "c", "dog on red", "cat on blue", "b background", "a b", "red c"]
QUICK = RepairSettings(
    steps=4, batch=2, learning_rate=1e-3, stride=1, run_up=0, life=2, draws=1, controls=2,
    save_every=2, surrogate=0.0, scattered=0.0, adversarial=0.0,
)  # fmt: skip


@pytest.fixture
def memorized(tmp_path) -> PromptSet:
    """Four captions with training images."""
    prompts = []
    for k, text in enumerate(("a cat", "a dog", "cat cat", "on")):
        path = tmp_path / f"{k}.png"
        Image.new("RGB", (16, 16), (250, 60 * k, 10 + 50 * k)).save(path)
        prompts.append(Prompt(f"m{k}", text, str(path)))
    return PromptSet.of(prompts)


def samples(driver, texts: list[str]):
    cases = with_images(driver, load_cases(PromptSet.of(texts), (16, 16)), Schedule(**SCHEDULE))
    return samples_of(driver, cases)


def weights_of(pipeline) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in pipeline.unet.parameters()])


def test_fisher_is_the_mean_square_of_single_gradients(tiny_pipeline) -> None:
    driver = driver_of(tiny_pipeline, **SCHEDULE)
    two = samples(driver, REFERENCE[:2])
    found = fisher(driver, two, 3)
    name, weight = list(matrices(driver.model).items())[5]
    total = torch.zeros_like(weight)
    for row, of in enumerate(two.ids):
        source = generator(f"{of}/fisher", 3)
        for level in range(LEVELS):
            share = (level + torch.rand(1, generator=source)) / LEVELS
            noise, time = driver.noise_of([source]), driver.path.at_share(share)
            one = slice(row, row + 1)
            loss = driver.loss(two.clean[one], two.conditioning[one], noise, time).sum()
            total += torch.autograd.grad(loss, weight)[0] ** 2 / (2 * LEVELS)
    torch.testing.assert_close(found[name], total, rtol=1e-4, atol=0)


def test_selected_are_the_weights_with_the_largest_ratios(tiny_pipeline) -> None:
    driver = driver_of(tiny_pipeline, **SCHEDULE)
    ours, theirs = samples(driver, ["a cat"]), samples(driver, REFERENCE[:2])
    masks = selected_weights(driver, ours, theirs, 0.3, 0)
    both = [
        torch.cat([each.flatten() for each in fisher(driver, s, 0).values()])
        for s in (ours, theirs)
    ]
    chosen = torch.cat([mask.flatten() for mask in masks.values()])
    assert abs(chosen.double().mean() - 0.3) < 0.001
    ratio = both[0] / (both[1] + 1e-12 * both[1].mean())
    assert ratio[chosen].min() >= ratio[~chosen].max() * 0.99


def test_selected_weights_are_perturbed_more(tiny_pipeline) -> None:
    uniform, same, more = (deepcopy(tiny_pipeline.unet) for _ in range(3))
    masks = {name: weight > 0 for name, weight in matrices(uniform).items()}
    perturb(uniform, 0.4, 1)
    perturb(same, 0.4, 1, masks, 0.4)
    perturb(more, 0.4, 1, masks, 0.9)
    for name, mask in masks.items():
        plain, equal, other = (m.get_parameter(name) for m in (uniform, same, more))
        torch.testing.assert_close(plain, equal)
        torch.testing.assert_close(plain[~mask], other[~mask])
        noise = plain / 0.6 - tiny_pipeline.unet.get_parameter(name)
        expected = 0.1 * (tiny_pipeline.unet.get_parameter(name) + 0.9 * noise / 0.4)
        torch.testing.assert_close(other[mask], expected[mask], rtol=1e-3, atol=1e-5)


def test_without_memorized_images_all_weights_are_erased_alike(tiny_pipeline) -> None:
    uniform = replace(QUICK, steps=1, perturb=0.5)
    selective = replace(uniform, selected=0.3, watch=1)
    plain, noted = (
        repair(tiny_pipeline, tiny_pipeline, REFERENCE, settings=each, **SCHEDULE)
        for each in (uniform, selective)
    )
    assert torch.equal(weights_of(plain.pipeline), weights_of(noted.pipeline))
    assert any("erased alike" in note for note in noted.notes)
    assert any("not watched" in note for note in noted.notes)


def test_blocks_agree_with_themselves_and_not_with_others(tiny_pipeline) -> None:
    model = tiny_pipeline.unet
    assert {"mid_block", "down_blocks.0", "up_blocks.0"} <= set(blocks_of(model))
    driver = driver_of(tiny_pipeline, **SCHEDULE)
    told, noise = driver.encode(REFERENCE[:3]), driver.initial_noise(["a", "b", "c"], 0)

    def outputs(noisy: torch.Tensor) -> dict:
        with torch.no_grad(), Outputs(model) as found:
            driver.predict(noisy, 500, told)
        return found.found

    here, again, there = outputs(noise), outputs(noise), outputs(noise + torch.eye(3)[0].sum() / 9)
    assert torch.equal(distance(here, again, 3), torch.zeros(3))
    assert (distance(there, here, 3) > 1e-6).all()
    assert not model._forward_hooks
    with pytest.raises(InputError, match="no block of this model"):
        distance(here, again, 2)


def test_features_are_taught(tiny_pipeline) -> None:
    settings = replace(QUICK, perturb=0.3, steps=12, batch=8)
    plain, taught = (
        repair(tiny_pipeline, tiny_pipeline, REFERENCE, settings=each, **SCHEDULE).driver
        for each in (settings, replace(settings, features=1.0))
    )
    teacher = driver_of(tiny_pipeline, **SCHEDULE)
    told, noise = teacher.encode(REFERENCE), teacher.initial_noise(REFERENCE, 0)

    def outputs(driver) -> dict:
        with torch.no_grad(), Outputs(driver.model) as found:
            driver.predict(noise, 500, told)
        return found.found

    far, near = (distance(outputs(d), outputs(teacher), 8).mean() for d in (plain, taught))
    assert near < far


def test_an_average_follows_and_is_put_in_place() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    average = Average([parameter], 0.5)
    for step in range(3):
        with torch.no_grad():
            parameter += 1
        average.follow(step)
    kept = [1 / 10, 2 / 11, 3 / 12]
    expected = 0.0
    for value, keep in zip((1, 2, 3), kept, strict=True):
        expected = keep * expected + (1 - keep) * value
    with average.in_place():
        torch.testing.assert_close(parameter.detach(), torch.full((2,), expected))
    assert parameter.tolist() == [3, 3]
    other = Average([parameter], 0.5)
    other.restore(average.state())
    other.put()
    torch.testing.assert_close(parameter.detach(), torch.full((2,), expected))


def test_the_adversarial_objective_takes_turns(tiny_pipeline) -> None:
    settings = replace(QUICK, steps=3, adversarial=0.1, every=2)
    found = repair(tiny_pipeline, tiny_pipeline, REFERENCE, settings=settings, **SCHEDULE)
    assert ["adversarial" in row for row in found.history] == [True, False, True]


class Turning(Watch):
    """All is well at the first look only."""

    def look(self, step: int) -> None:
        self.looks.append(Look(step, 0.0 if not self.looks else 0.5, 0.0, 0.0))
        if self.looks[-1].good:
            self.good = [p.detach().clone() for p in self.student.model.parameters()]


def test_a_repair_stops_when_it_turns_and_keeps_the_last_good_state(
    tiny_pipeline, memorized, tmp_path, monkeypatch
) -> None:
    settings = replace(QUICK, steps=6, watch=2, ema=0.9, perturb=0.2, selected=0.2)
    monkeypatch.setattr("memfast.repairing.run.Watch", Turning)
    how = {"settings": settings, "checkpoint": tmp_path / "c.safetensors", **SCHEDULE}

    def run(stop: int | None = None):
        seen = []

        def progress(count: int) -> None:
            seen.append(count)
            if len(seen) == stop:
                raise KeyboardInterrupt

        stage = lambda label, total: progress if label == "repairing" else (lambda n: None)  # noqa: E731
        return repair(tiny_pipeline, tiny_pipeline, REFERENCE, memorized, progress=stage, **how)

    whole = run()
    assert [look.step for look in whole.looks] == [2, 4]
    assert len(whole.history) == 4
    again = run()  # finished: nothing is left to do
    assert torch.equal(weights_of(whole.pipeline), weights_of(again.pipeline))
    how["checkpoint"] = tmp_path / "d.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(stop=3)
    resumed = run()
    assert torch.equal(weights_of(whole.pipeline), weights_of(resumed.pipeline))
    assert resumed.looks == whole.looks
    two = repair(
        tiny_pipeline, tiny_pipeline, REFERENCE, memorized,
        **{**how, "settings": replace(settings, watch=0), "checkpoint": None},
    )  # fmt: skip
    assert not torch.equal(weights_of(two.pipeline), weights_of(whole.pipeline))


def test_what_is_watched_teaches_nothing(tiny_pipeline, memorized) -> None:
    settings = replace(QUICK, steps=1, watch=1, adversarial=0.5)
    result = repair(
        tiny_pipeline, tiny_pipeline, REFERENCE, memorized, settings=settings, **SCHEDULE
    )
    assert result.figures["located_captions"] == 2
    (look,) = result.looks
    assert look.step == 1
    assert 0 <= look.attacked <= 1


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    assert recipe(name, steps=7).steps == 7
    assert recipe(name).recipe == name
    with pytest.raises(InputError, match=f"must be one of {', '.join(RECIPES)}, not 'slow'"):
        recipe("slow")


def test_the_command_takes_a_recipe_and_changes_of_it(tiny_folder, tmp_path, memorized) -> None:
    lists = {"reference": REFERENCE, "memorized": memorized}
    (tmp_path / "r.txt").write_text("\n".join(lists["reference"]))
    rows = [f'{{"id": "{p.id}", "prompt": "{p.text}", "image": "{p.image}"}}' for p in memorized]
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    words = ["repair", str(tiny_folder), "--original", str(tiny_folder), "--reference"]
    words += [str(tmp_path / "r.txt"), "--memorized", str(tmp_path / "m.jsonl")]
    words += ["--steps", "2", "--batch-size", "2", "--watch", "2", "--save-every", "1"]
    words += ["--num-inference-steps", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--recipe", "thorough"], catch_exceptions=False)
    assert done.exit_code in (0, 3), done.output
    made = read_json(tmp_path / "out" / "summary.json")
    settings = made["settings"]
    assert settings["recipe"] == "thorough"
    assert settings["steps"] == settings["batch"] == 2
    for key in set(RECIPES["thorough"]) - {"steps", "batch"}:
        assert settings[key] == RECIPES["thorough"][key]
    assert made["looks"][0]["step"] == 2
    with pytest.raises(InputError, match="recipe must be one of"):
        CliRunner().invoke(app, [*words, "--recipe", "slow"], catch_exceptions=False)


def test_another_recipe_does_not_go_on(tiny_pipeline, tmp_path) -> None:
    how = {"checkpoint": tmp_path / "c.safetensors", **SCHEDULE}
    small = {"steps": 1, "batch": 2, "watch": 0, "adversarial": 0.0}
    repair(tiny_pipeline, tiny_pipeline, REFERENCE, settings=recipe("quick", **small), **how)
    with pytest.raises(InputError, match=r"another repair \(settings.*recipe.*quick.*thorough"):
        repair(tiny_pipeline, tiny_pipeline, REFERENCE, settings=recipe("thorough", **small), **how)
