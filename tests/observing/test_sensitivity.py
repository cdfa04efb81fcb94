"""Gates, what the output's sensitivity to them is, and the rules that rank by it."""

import pytest
import torch

import memfast
from memfast.blocks.families import find_sites
from memfast.choosing.learned_gates import Pull, learn_gates
from memfast.choosing.locating import check_names
from memfast.errors import InputError
from memfast.observing.gradients import collect_gradients
from memfast.observing.scaling import gated, open_gates
from memfast.observing.sensitivity import (
    collect_sensitivity,
    least_sensitive,
    sensitivity,
    stability,
)
from memfast.pipelines.drivers.table import driver_of
from memfast.prompts import Prompt, PromptSet
from memfast.removing.masking import prune
from memfast.selection import Subspace
from memfast.statistics import mean_activations

SCHEDULE = {"num_inference_steps": 2, "guidance_scale": 1.5}
PROMPTS = ["a cat", "red b", "blue dog"]


def inputs(pipeline) -> tuple:
    driver = driver_of(pipeline)
    latents = driver.initial_noise(["a", "b"], 3)
    return driver, latents, torch.tensor([400, 700]), driver.encode(["a cat", "red b"])


@torch.no_grad()
@pytest.mark.parametrize("compensate", ["none", "mean"])
def test_closed_gates_are_removed_neurons(tiny_pipeline, compensate: str) -> None:
    driver, *call = inputs(tiny_pipeline)
    sites = find_sites(driver.model)
    masks = {path: torch.arange(site.neurons) % 3 == 0 for path, site in sites.items()}
    means = {path: torch.linspace(-1, 1, site.neurons) for path, site in sites.items()}
    with gated(
        sites, {p: (~m).float() for p, m in masks.items()}, means if compensate == "mean" else None
    ):
        output = driver.predict(*call)
    pruned = prune(driver.model, Subspace(masks, mean=means), compensate=compensate)
    expected = pruned(call[0], call[1], **call[2].leaves).sample
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_gates_of_images_are_their_own_and_go_away(tiny_pipeline) -> None:
    driver, *call = inputs(tiny_pipeline)
    sites = find_sites(driver.model)
    before = driver.predict(*call)
    gates = {path: gate.detach() for path, gate in open_gates(sites, 2).items()}
    for gate in gates.values():
        gate[1] = 0
    with gated(sites, gates):
        output = driver.predict(*call)
    torch.testing.assert_close(output[0], before[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(output[1], before[1], atol=1e-3)
    assert torch.equal(driver.predict(*call), before)


def test_derivatives_agree_with_differences(tiny_pipeline) -> None:
    tiny_pipeline.unet.double()
    driver, latents, times, told = inputs(tiny_pipeline)
    latents, told = latents.double(), told.to(dtype=torch.float64)
    sites = find_sites(driver.model)
    path = list(sites)[-1]
    direction = torch.randn(latents.shape, generator=torch.manual_seed(0)).double()
    gates = {p: g.detach().double().requires_grad_() for p, g in open_gates(sites, 2).items()}

    def value() -> torch.Tensor:
        with gated(sites, gates):
            return (driver.predict(latents, times, told) * direction).sum()

    slope = torch.autograd.grad(value(), gates[path])[0]
    for image, neuron in ((0, 0), (1, 77)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                gates[path][image, neuron] += sign * 1e-4
                ends.append(value())
                gates[path][image, neuron] -= sign * 1e-4
        assert float(slope[image, neuron]) == pytest.approx(
            float(ends[0] - ends[1]) / 2e-4, rel=1e-5
        )


def test_the_batch_shapes_nothing(tiny_pipeline) -> None:
    whole, single = (
        collect_sensitivity(tiny_pipeline, PROMPTS, strata=3, batch_size=size, **SCHEDULE)
        for size in (3, 1)
    )
    assert whole.steps == 3
    for path in whole.sites:
        assert whole[path].count.unique().tolist() == [3]
        torch.testing.assert_close(whole[path].rms, single[path].rms, rtol=1e-3, atol=1e-6)
    parts = [
        collect_sensitivity(tiny_pipeline, part, strata=3, **SCHEDULE)
        for part in (PROMPTS[:1], PROMPTS[1:])
    ]
    merged = parts[0] + parts[1]
    for path in whole.sites:
        torch.testing.assert_close(merged[path].rms, whole[path].rms, rtol=1e-3, atol=1e-6)


def test_an_unread_neuron_is_the_least_needed(tiny_pipeline) -> None:
    dead = {path: 7 * k for k, path in enumerate(find_sites(tiny_pipeline.unet))}
    with torch.no_grad():
        for path, neuron in dead.items():
            find_sites(tiny_pipeline.unet)[path].contraction.weight[:, neuron] = 0
    statistics = collect_sensitivity(tiny_pipeline, PROMPTS, strata=2, **SCHEDULE)
    total = sum(memfast.ffn_sites(tiny_pipeline.unet).values())
    masks = least_sensitive(statistics, (len(dead) + 0.5) / total)
    assert {path: mask.nonzero().flatten().tolist() for path, mask in masks.items()} == {
        path: [neuron] for path, neuron in dead.items()
    }
    assert all(sensitivity(statistics)[path][neuron] == 0 for path, neuron in dead.items())


def test_means_are_of_the_activations(tiny_pipeline) -> None:
    statistics = collect_sensitivity(tiny_pipeline, ["a cat"], strata=1, **SCHEDULE)
    path, site = next(iter(find_sites(tiny_pipeline.unet).items()))
    seen = []
    handle = site.contraction.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach()))
    collect_sensitivity(tiny_pipeline, ["a cat"], strata=1, **SCHEDULE)
    handle.remove()
    expected = seen[-1].mean((0, 1))  # the last call is the one at the drawn timestep
    torch.testing.assert_close(mean_activations(statistics)[path], expected)


def test_perturbation_agrees_with_gradients(tiny_pipeline) -> None:
    with torch.no_grad():  # blocks of very different weight, as trained models have
        for k, site in enumerate(find_sites(tiny_pipeline.unet).values()):
            site.contraction.weight *= 4.0 ** (k - 2)
    found = [
        sensitivity(collect_sensitivity(tiny_pipeline, PROMPTS, strata=4, by=by, **SCHEDULE))
        for by in ("gradient", "perturbation")
    ]
    ranks = torch.stack(
        [torch.cat(list(each.values())).argsort().argsort().double() for each in found]
    )
    assert torch.corrcoef(ranks)[0, 1] > 0.8
    for path in found[0]:  # of a block as a whole, within a factor of two
        ratio = found[1][path].sum() / found[0][path].sum()
        assert 0.5 < ratio < 2


def test_unknown_method(tiny_pipeline) -> None:
    with pytest.raises(InputError, match="by must be one of gradient, perturbation"):
        collect_sensitivity(tiny_pipeline, PROMPTS, by="guess")


def test_halves_are_compared(tiny_pipeline) -> None:
    statistics = collect_sensitivity(tiny_pipeline, PROMPTS, strata=2, **SCHEDULE)
    assert stability(statistics, statistics, 0.5) == pytest.approx(
        {"rank_correlation": 1, "iou": 1, "chance": 1 / 3}
    )
    other = collect_sensitivity(tiny_pipeline, PROMPTS, strata=2, seed=9, **SCHEDULE)
    found = stability(statistics, other, 0.5)
    assert found["chance"] < found["iou"] < 1
    assert 0 < found["rank_correlation"] < 1


def test_rule_reference(tiny_pipeline, tmp_path) -> None:
    statistics = collect_sensitivity(tiny_pipeline, PROMPTS, strata=2, **SCHEDULE)
    statistics.save(tmp_path / "s.safetensors")
    statistics = memfast.NeuronStatistics.load(tmp_path / "s.safetensors")
    subspace = memfast.locate(None, statistics, tiny_pipeline.unet, rule="reference", fraction=0.6)
    assert subspace.masks.keys() == subspace.mean.keys()
    expected = least_sensitive(statistics, 0.6)
    assert all(torch.equal(subspace.masks[path], expected[path]) for path in expected)
    smaller = memfast.compact(tiny_pipeline.unet, subspace)
    assert sum(memfast.ffn_sites(smaller).values()) < 0.5 * 768


@pytest.mark.parametrize("beta", [None, 0.0, 0.8])
def test_rule_selective(tiny_pipeline, beta) -> None:
    unet = tiny_pipeline.unet
    ours, theirs = (
        collect_sensitivity(tiny_pipeline, texts, strata=2, **SCHEDULE)
        for texts in (["a cat"], PROMPTS[1:])
    )
    found = memfast.locate(ours, theirs, unet, rule="selective", fraction=0.3, beta=beta)
    weight = 0.5 if beta is None else beta
    used, needed = (
        torch.cat([s[path].rms.square().mean(0) for path in s.sites]) for s in (ours, theirs)
    )
    order = (needed / used**weight).argsort()
    mask = torch.cat([found.masks[path] for path in theirs.sites])
    assert mask[order[: mask.sum()]].all()
    assert found.header["beta"] == weight
    if beta == 0:
        assert found.masks.keys() == (plain := least_sensitive(theirs, 0.3)).keys()
        assert all(torch.equal(found.masks[path], plain[path]) for path in plain)


def test_rule_reference_without_gradients(tiny_pipeline) -> None:
    statistics = memfast.collect(tiny_pipeline, PROMPTS, steps=2, **SCHEDULE)
    subspace = memfast.locate(None, statistics, tiny_pipeline.unet, rule="reference", fraction=0.5)
    path, site = next(iter(find_sites(tiny_pipeline.unet).items()))
    moments = statistics.moments[path].pool()
    energy = moments.variance[0] * site.contraction.weight.detach().double().square().sum(0)
    removed = subspace.masks[path]
    assert energy[removed].max() <= energy[~removed].min()


def test_rule_gates(tiny_pipeline) -> None:
    before = {name: p.clone() for name, p in tiny_pipeline.unet.named_parameters()}
    pull = Pull(steps=4, learning_rate=0.2)
    learnt = [
        learn_gates(tiny_pipeline, ["a cat"], PROMPTS[1:], pull=pull, **SCHEDULE) for _ in range(2)
    ]
    gates = learnt[0]["mid_block.attentions.0.transformer_blocks.0.ff"].mean
    assert gates.min() >= 0
    assert gates.max() <= 1
    assert len(gates.unique()) > 100
    assert all(torch.equal(learnt[0][p].mean, learnt[1][p].mean) for p in learnt[0].sites)
    assert all(torch.equal(p, before[n]) for n, p in tiny_pipeline.unet.named_parameters())
    assert all(p.grad is None for p in tiny_pipeline.unet.parameters())
    subspace = memfast.locate(None, learnt[0], tiny_pipeline.unet, rule="gates", fraction=0.25)
    closed = torch.cat([learnt[0][p].mean[0][subspace.masks[p]] for p in learnt[0].sites])
    others = torch.cat([learnt[0][p].mean[0][~subspace.masks[p]] for p in learnt[0].sites])
    assert closed.max() <= others.min()
    assert subspace.mean.keys() == subspace.masks.keys()


@pytest.mark.parametrize(
    ("rule", "memorized", "words"),
    [
        ("reference", True, "takes none"),
        ("neurons", False, "needs statistics"),
        ("selective", False, "needs statistics"),
        ("selective", True, "quantity must be one of sensitivity"),
    ],
)
def test_sets_that_a_rule_does_not_take(tiny_pipeline, rule, memorized, words) -> None:
    statistics = memfast.collect(tiny_pipeline, PROMPTS[:1], steps=1, **SCHEDULE)
    other = memfast.collect(tiny_pipeline, PROMPTS[1:], steps=1, **SCHEDULE)
    with pytest.raises(InputError, match=words):
        memfast.locate(
            other if memorized else None, statistics, tiny_pipeline.unet, rule=rule, fraction=0.5
        )


def test_rule_gates_refuses_activations(tiny_pipeline) -> None:
    statistics = memfast.collect(tiny_pipeline, PROMPTS, steps=1, **SCHEDULE)
    with pytest.raises(InputError, match="quantity must be one of gate"):
        memfast.locate(None, statistics, tiny_pipeline.unet, rule="gates", fraction=0.5)


def test_no_prompts(tiny_pipeline) -> None:
    with pytest.raises(InputError, match="there are none"):
        collect_sensitivity(tiny_pipeline, [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "reference", "beta": 1.0}, "takes none"),
        ({"rule": "selective", "beta": -1.0}, "0"),
    ],
)
def test_a_beta_that_a_rule_does_not_take(options, words) -> None:
    with pytest.raises(InputError, match=f"beta.*{words}"):
        check_names(**options)


@pytest.mark.parametrize(
    "words",
    [
        ["--rule", "reference"],
        ["--rule", "reference", "--max-damage", "1.5"],
        ["--rule", "selective", "--max-damage", "1.5", "--memorized", "m.txt"],
    ],
)
def test_command(tiny_folder, tmp_path, monkeypatch, words) -> None:
    from typer.testing import CliRunner

    from memfast.cli.app import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.txt").write_text("a cat\n")
    reference = tmp_path / "r.txt"
    reference.write_text("red b\nblue c\nc\ndog on red\ncat on blue\nb background\na b\nred c\n")
    out = tmp_path / "s.safetensors"
    words = ["locate", str(tiny_folder), "--reference", str(reference), "--out", str(out), *words]
    words += ["--fraction", "0.5", "--num-inference-steps", "2", "--steps", "2"]
    if "--memorized" not in words:
        for rule in ("gates", "selective"):
            with pytest.raises(InputError, match=f"--memorized: rule '{rule}' needs it"):
                CliRunner().invoke(app, [*words, "--rule", rule], catch_exceptions=False)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    subspace = Subspace.load(out)
    assert subspace.mean.keys() == subspace.masks.keys()
    if "--max-damage" in words:
        assert subspace.header["damage"] <= 1.5
        assert len(subspace.header["tried"]) == 6
    else:
        assert subspace.density == pytest.approx(0.5, abs=0.01)
    assert 1 / 3 < subspace.header["agreement"]["iou"] <= 1


@pytest.mark.parametrize("collector", [collect_sensitivity, collect_gradients])
def test_a_missing_picture_is_a_note(tiny_pipeline, tmp_path, collector) -> None:
    """The model's own stands in: as for a prompt that names none."""
    missing = Prompt("a", "a cat", str(tmp_path / "gone.png"))
    found = collector(tiny_pipeline, PromptSet.of([missing]), num_inference_steps=2)
    without = collector(tiny_pipeline, PromptSet.of([Prompt("a", "a cat")]), num_inference_steps=2)
    assert found.header["notes"] == ["a: image gone.png: no such file; the model's own stands in"]
    assert without.header["notes"] == []
    for site in found:
        assert torch.equal(found[site].mean, without[site].mean)


@pytest.mark.parametrize("collector", [collect_sensitivity, collect_gradients])
def test_a_model_of_no_numbers_is_an_error(tiny_pipeline, collector) -> None:
    with torch.no_grad():
        tiny_pipeline.unet.conv_in.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="no prompt's activations are finite: a not at step 0"):
        collector(tiny_pipeline, PromptSet.of([Prompt("a", "a cat")]), num_inference_steps=2)
