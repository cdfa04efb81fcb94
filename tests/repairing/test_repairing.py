"""Repair on a tiny pipeline: objectives, the running attack, the loop, checkpoints, bad input."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import memfast
from memfast.errors import InputError
from memfast.measuring.cases import Cases, load_cases
from memfast.observing.sensitivity import collect_sensitivity
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import EMBEDDINGS
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule
from memfast.prompts import Prompt, PromptSet
from memfast.repairing.erasing.perturbing import perturb
from memfast.repairing.removal import harm_of, remove_to_damage
from memfast.repairing.run import prepare, repair
from memfast.repairing.samples import samples_of, with_images
from memfast.repairing.settings import RepairSettings
from memfast.repairing.teaching.checkpoint import save_checkpoint
from memfast.repairing.teaching.objectives import OBJECTIVES, active
from memfast.repairing.teaching.pool import Pool
from memfast.repairing.teaching.training import schedule, train

SCHEDULE = {"num_inference_steps": 2, "guidance_scale": 1.5}
SCHEDULED = Schedule(**SCHEDULE)
SIZE = (16, 16)
REFERENCE = ["red b", "blue c", "c", "dog on red", "cat on blue", "b background", "a b", "red c"]
QUICK = RepairSettings(
    steps=4,
    batch=2,
    learning_rate=1e-3,
    stride=1,
    run_up=0,
    life=2,
    draws=1,
    controls=2,
    save_every=2,
)


@pytest.fixture
def memorized(tmp_path) -> PromptSet:
    """Two captions with training images."""
    prompts = []
    for k, text in enumerate(("a cat", "a dog")):
        path = tmp_path / f"{k}.png"
        Image.new("RGB", (16, 16), (250, 120 * k, 10)).save(path)
        prompts.append(Prompt(f"m{k}", text, str(path)))
    return PromptSet.of(prompts)


@pytest.fixture
def pruned(tiny_pipeline):
    """The tiny pipeline, and one with half of its neurons."""
    statistics = collect_sensitivity(tiny_pipeline, REFERENCE[:3], strata=2, **SCHEDULE)
    subspace = memfast.locate(None, statistics, tiny_pipeline.unet, rule="reference", fraction=0.5)
    smaller = type(tiny_pipeline)(
        **{**tiny_pipeline.components, "unet": memfast.compact(tiny_pipeline.unet, subspace)},
        requires_safety_checker=False,
    )
    smaller.set_progress_bar_config(disable=True)
    return tiny_pipeline, smaller


def material_of(original, smaller, memorized, settings=QUICK):
    teacher, student = driver_of(original, **SCHEDULE), driver_of(smaller, **SCHEDULE)
    known = with_images(teacher, load_cases(PromptSet.of(REFERENCE), SIZE), SCHEDULED)
    located = load_cases(memorized, SIZE)
    return teacher, student, prepare(student, teacher, known, located, settings)


def weights_of(pipeline) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in pipeline.unet.parameters()])


def test_distillation_brings_the_model_back(pruned) -> None:
    original, smaller = pruned
    noise = torch.manual_seed(0)
    with torch.no_grad():
        for parameter in smaller.unet.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=noise)
    before = weights_of(smaller).clone()
    settings = replace(QUICK, steps=30, batch=8, adversarial=0.0, scattered=0.0)
    result = repair(smaller, original, REFERENCE, settings=settings, **SCHEDULE)
    errors = [row["reference"] for row in result.history]
    assert sum(errors[-8:]) < 0.7 * sum(errors[:8])
    assert result.history[0].keys() == {"step", "reference"}
    assert torch.equal(weights_of(smaller), before)
    assert isinstance(result.pipeline.unet, type(smaller.unet))
    counts = [result.figures[f"{part}_captions"] for part in ("reference", "held_out")]
    assert sum(counts) == len(REFERENCE)
    assert min(counts) > 0


def test_perturbing_shrinks_and_adds_noise_of_the_same_size(tiny_pipeline) -> None:
    models = [deepcopy(tiny_pipeline.unet) for _ in range(3)]
    for model, share in zip(models, (0.0, 0.6, 0.6), strict=True):
        perturb(model, share, 0)
    for name, weight in tiny_pipeline.unet.named_parameters():
        same, some, again = (model.get_parameter(name) for model in models)
        assert torch.equal(same, weight)
        assert torch.equal(some, again)
        if weight.ndim < 2:
            assert torch.equal(some, weight)
        elif weight.numel() > 500:
            noise = (some / 0.4 - weight) / (0.6 * weight.std())
            assert abs(noise.std() - 1) < 0.1
            assert abs(torch.corrcoef(torch.stack([noise.flatten(), weight.flatten()]))[0, 1]) < 0.2


def test_a_perturbed_model_is_taught_again(pruned) -> None:
    original, smaller = pruned
    settings = replace(QUICK, perturb=0.6, adversarial=0.0, scattered=0.0)
    result = repair(smaller, original, REFERENCE, settings=settings, **SCHEDULE)
    plain = repair(
        smaller, original, REFERENCE, settings=replace(settings, perturb=0.0), **SCHEDULE
    )
    assert result.history[0]["reference"] > 2 * plain.history[0]["reference"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_draw_what_they_say(pruned, memorized, name: str) -> None:
    _, student, material = material_of(*pruned, memorized)
    rows, again = (
        OBJECTIVES[name](material, student, 0, generator("x", 0))
        if name != "adversarial"
        else OBJECTIVES[name](material_of(*pruned, memorized)[2], student, 0, generator("x", 0))
        for _ in range(2)
    )
    assert len(rows.clean) == len(rows.given) == QUICK.batch
    given = rows.given.leaves[EMBEDDINGS]
    assert torch.equal(given, again.given.leaves[EMBEDDINGS])
    assert given.isfinite().all()
    match name:
        case "reference":
            assert torch.equal(given, rows.wanted.leaves[EMBEDDINGS])
        case "surrogate":
            assert rows.wanted is None
            own = material.own.conditioning.leaves[EMBEDDINGS]
            assert all((row == own).flatten(1).all(1).any() for row in given)
        case _:
            empty = material.empty.leaves[EMBEDDINGS]
            assert torch.equal(rows.wanted.leaves[EMBEDDINGS], empty.expand_as(given))


def test_the_surrogate_is_not_the_training_image(pruned, memorized) -> None:
    teacher, _, material = material_of(*pruned, memorized)
    training = samples_of(teacher, load_cases(memorized, SIZE)).clean
    assert (material.own.clean - training).abs().max() > 0.1
    torch.testing.assert_close(material.pool.clean[4:6], training)


def test_the_pool_attacks_and_begins_anew(pruned, memorized) -> None:
    _, student, material = material_of(
        *pruned, memorized, replace(QUICK, batch=64, stride=2, life=3, draws=4)
    )
    pool = material.pool
    assert isinstance(pool, Pool)
    assert len(pool.names) == 2 * 2 + 3 * 2  # controls from two starts, memorized from three
    assert not any(name.endswith("/prompt") for name in pool.names[:4])

    def loss() -> float:
        noise = torch.randn(pool.clean.shape, generator=torch.manual_seed(1))
        with torch.no_grad():
            told = pool.beginnings.told(pool.found)
            return float(student.loss(pool.clean, told, noise, 500).mean())

    before = loss()
    for step in range(2):
        clean, _ = pool.advanced(student, step, generator(f"s{step}", 0))
        assert clean.shape == pool.clean.shape
    assert pool.ages.unique().tolist() == [4]
    assert loss() < before
    pool.advanced(student, 2, generator("s2", 0))
    assert pool.ages.unique().tolist() == [2]
    begun = pool.beginnings.leaves[EMBEDDINGS]
    assert (pool.found[EMBEDDINGS] - begun).abs().max() < 0.25  # two steps of 0.1 from the start
    assert all(p.grad is None for p in student.model.parameters())


def test_fresh_embeddings_are_driven_away_before_they_are_used(pruned, memorized) -> None:
    settings = replace(QUICK, batch=64, stride=2, run_up=3, life=9)
    _, student, material = material_of(*pruned, memorized, settings)
    for step, age in enumerate((5, 7, 9, 5)):
        material.pool.advanced(student, step, generator(f"s{step}", 0))
        assert material.pool.ages.unique().tolist() == [age]


def interrupted_after(steps: int) -> Callable[[int], None]:
    """A progress that ends the run once so many steps are done."""
    done = []

    def progress(count: int) -> None:
        done.extend([None] * count)
        if len(done) == steps:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_repair_ends_as_an_uninterrupted_one(pruned, memorized, tmp_path) -> None:
    original, smaller = pruned

    def begin(path: Path, progress: Callable[[int], None] | None = None) -> tuple:
        teacher, _, material = material_of(original, smaller, memorized)
        parts = {**smaller.components, "unet": deepcopy(smaller.unet)}
        pipeline = type(smaller)(**parts, requires_safety_checker=False)
        return train(driver_of(pipeline), teacher, material, path, progress), weights_of(pipeline)

    history, weights = begin(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "parts.safetensors", interrupted_after(3))
    resumed, same = begin(tmp_path / "parts.safetensors")
    assert torch.equal(weights, same)
    assert history == resumed
    assert [row["step"] for row in history] == [0, 1, 2, 3]


def test_a_checkpoint_of_another_repair_is_refused(pruned, tmp_path) -> None:
    original, smaller = pruned
    path = tmp_path / "c.safetensors"
    settings = replace(QUICK, adversarial=0.0, scattered=0.0, steps=2)
    repair(smaller, original, REFERENCE, settings=settings, checkpoint=path, **SCHEDULE)
    with pytest.raises(InputError, match=r"another repair \(settings"):
        repair(
            smaller,
            original,
            REFERENCE,
            settings=replace(settings, seed=1),
            checkpoint=path,
            **SCHEDULE,
        )
    with pytest.raises(InputError, match=r"another repair \(begun_from"):
        repair(original, original, REFERENCE, settings=settings, checkpoint=path, **SCHEDULE)


def test_nan_stops_and_says_what_is_kept(pruned, tmp_path) -> None:
    original, smaller = pruned
    path = tmp_path / "c.safetensors"
    settings = replace(QUICK, adversarial=0.0, scattered=0.0, steps=4)
    done = []

    def poison(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            with torch.no_grad():
                original.unet.conv_out.bias.fill_(float("nan"))

    with pytest.raises(InputError, match=r"reference error is not finite at step 3.*after 2 steps"):
        repair(
            smaller,
            original,
            REFERENCE,
            settings=settings,
            checkpoint=path,
            progress=lambda label, total: poison,
            **SCHEDULE,
        )
    assert path.is_file()


def test_removal_keeps_the_bound(tiny_pipeline) -> None:
    driver = driver_of(tiny_pipeline)
    cases = with_images(driver, load_cases(PromptSet.of(REFERENCE), SIZE), SCHEDULED)
    harm = harm_of(driver, cases)
    assert harm(tiny_pipeline.unet) == 1
    statistics = collect_sensitivity(tiny_pipeline, REFERENCE[:3], strata=2, **SCHEDULE)
    loose, tight = (
        remove_to_damage(driver, statistics, harm, bound, trials=2) for bound in (2.0, 1.0002)
    )
    for found, bound in ((loose, 2.0), (tight, 1.0002)):
        assert found.damage <= bound
        assert len(found.tried) == 2
        assert found.damage == harm(
            memfast.compact(tiny_pipeline.unet, found.subspace, multiple_of=1)
        )
    assert loose.subspace.removed > tight.subspace.removed
    with pytest.raises(InputError, match="even removing"):
        remove_to_damage(driver, statistics, harm, 0.5, trials=2)


def test_weights_without_material_are_left_out(pruned) -> None:
    original, smaller = pruned
    teacher, student = driver_of(original, **SCHEDULE), driver_of(smaller, **SCHEDULE)
    known = with_images(teacher, load_cases(PromptSet.of(REFERENCE), SIZE), SCHEDULED)
    material = prepare(student, teacher, known, None, QUICK)
    assert set(active(material)) == {"reference", "adversarial", "scattered"}
    material = prepare(student, teacher, known, None, replace(QUICK, controls=0))
    assert set(active(material)) == {"reference", "scattered"}


def test_samples_need_images(tiny_pipeline) -> None:
    with pytest.raises(InputError, match="images are needed"):
        samples_of(driver_of(tiny_pipeline), Cases(()))


def test_the_rate_rises_and_falls() -> None:
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert max(rates) == rates[9] < 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0 and at most 1000, not inf"),
        ({"adversarial": math.nan}, "adversarial: a weight cannot be nan"),
        ({"perturb": 1.5}, r"perturb must be in \[0, 1\)"),
        ({"reference": -1.0}, "reference: a weight"),
        ({"starts": ("nowhere",)}, "none of prompt, noise, another"),
    ],
)
def test_settings_are_checked(change, words) -> None:
    with pytest.raises(InputError, match=words):
        RepairSettings(**change)
    assert json.dumps(QUICK.as_dict())


def test_bad_lists_and_models(pruned, memorized) -> None:
    original, smaller = pruned
    with pytest.raises(InputError, match="is a compact model itself"):
        repair(smaller, smaller, REFERENCE, **SCHEDULE)
    with pytest.raises(InputError, match="at least 8 are needed"):
        repair(smaller, original, REFERENCE[:3], **SCHEDULE)
    with pytest.raises(InputError, match="in both memorized and reference: a cat"):
        repair(smaller, original, [*REFERENCE, "a cat"], memorized, **SCHEDULE)
    with pytest.raises(InputError, match="memorized: there are none"):
        repair(smaller, original, REFERENCE, [], **SCHEDULE)


def test_a_rate_that_breaks_the_model_keeps_a_good_state(pruned, tmp_path) -> None:
    """What is kept gave finite errors: a lower rate goes on from there, however high it was."""
    original, smaller = pruned
    how = {"checkpoint": tmp_path / "c.safetensors", **SCHEDULE}
    settings = replace(QUICK, adversarial=0.0, scattered=0.0, steps=6, save_every=1)
    done = []

    def stop(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(smaller, original, REFERENCE, settings=settings, progress=lambda *_: stop, **how)
    high = replace(settings, learning_rate=1000.0)
    for _ in range(2):
        with pytest.raises(InputError, match=r"not finite at step 3; the last .* after 2 steps"):
            repair(smaller, original, REFERENCE, settings=high, **how)
    low = replace(settings, learning_rate=1e-5)
    repaired = repair(smaller, original, REFERENCE, settings=low, **how)
    assert [entry["step"] for entry in repaired.history] == [*range(6)]
    assert weights_of(repaired.pipeline).isfinite().all()


def test_a_weight_that_is_not_finite_stops(pruned, tmp_path, monkeypatch) -> None:
    def overflow(self) -> None:
        self.param_groups[0]["params"][0].data.fill_(torch.inf)

    monkeypatch.setattr(torch.optim.Adam, "step", overflow)
    settings = replace(QUICK, adversarial=0.0, scattered=0.0, steps=4)
    with pytest.raises(InputError, match=r"the weight conv_in\.weight is not finite at step 0"):
        repair(*reversed(pruned), REFERENCE, settings=settings, **SCHEDULE)


def test_a_state_that_is_not_finite_is_not_kept(tiny_pipeline, tmp_path) -> None:
    path, model = tmp_path / "c.safetensors", tiny_pipeline.unet
    with torch.no_grad():
        model.conv_out.bias[0] = torch.inf
    with pytest.raises(InputError, match=r"model/conv_out\.bias holds numbers that are not finite"):
        save_checkpoint(path, model, torch.optim.Adam(model.parameters()), {}, {"step": 1})
    assert not path.exists()
