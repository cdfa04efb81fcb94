"""Least-squares compensation against float64 lstsq on the very rows."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from memfast import InputError, collect, compact, least_squares, locate, prune
from memfast.blocks.families import find_sites
from memfast.blocks.families.examples import tiny, tiny_inputs
from memfast.removing.compensation import Correction
from memfast.removing.least_squares import Gram, listening, passes
from memfast.selection import Subspace
from tests.support.models import output, random_subspace

PROMPTS = ["a cat", "a dog", "red b"]
SHORT = {"steps": 2, "num_inference_steps": 4, "guidance_scale": 2.0}


def rows_of(model: torch.nn.Module, path: str, run: object) -> Tensor:
    """Every row that the site's contracting linear reads while `run` runs, float64."""
    seen: list[Tensor] = []
    site = find_sites(model)[path]
    handle = site.contraction.register_forward_pre_hook(
        lambda _, inputs: seen.append(site.neurons_in(inputs[0]).flatten(0, -2).double())
    )
    run()  # type: ignore[operator]
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", ["SD 1.4", "Flux.1", "Z-Image", "Sana 1.6B"])
def test_solution_equals_lstsq_on_the_rows(name: str) -> None:
    model = tiny(name)
    sites = find_sites(model)
    path, site = list(sites.items())[-1]
    removed = torch.arange(site.neurons) % 4 != 0  # few kept, so that rows outnumber them
    gram = Gram(site, removed)
    inputs = [tiny_inputs(name, model, seed) for seed in range(3)]

    def run() -> None:
        for arguments in inputs:
            output(model, arguments)

    rows = rows_of(model, path, run)
    with listening(sites, {path: gram}):
        run()
    weight = site.weight.detach().double()
    lost, kept = rows[:, removed] @ weight[:, removed].T, rows[:, ~removed]
    if site.contraction.bias is not None:
        kept = torch.cat([kept, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    assert len(rows) > kept.shape[1]
    expected = torch.linalg.lstsq(kept, lost, driver="gelsd").solution
    solved = gram.solve(ridge=0.0)
    found = solved.weight.T.double()
    if solved.bias is not None:
        found = torch.cat([found, solved.bias.double()[None]])
    error = (kept @ found - lost).norm() / lost.norm()
    assert error <= (kept @ expected - lost).norm() / lost.norm() + 1e-4
    assert (solved.bias is None) == (site.contraction.bias is None)
    assert not site.contraction._forward_pre_hooks


def test_better_on_reference_prompts_than_mean_and_nothing(
    tiny_pipeline: StableDiffusionPipeline,
) -> None:
    dense = tiny_pipeline.unet
    statistics = collect(tiny_pipeline, PROMPTS, rows="both", **SHORT)
    other = collect(tiny_pipeline, ["blue c"], rows="both", **SHORT)
    subspace = locate(other, statistics, dense, fraction=0.4)
    solved = least_squares(tiny_pipeline, PROMPTS, subspace, ridge=1e-6, **SHORT)

    def latents() -> Tensor:
        return tiny_pipeline(
            PROMPTS,
            num_inference_steps=4,
            guidance_scale=2.0,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images

    wanted, damage = latents(), []
    for compensate in ("none", "mean", solved):
        tiny_pipeline.unet = compact(dense, subspace, compensate=compensate)
        damage.append(float((latents() - wanted).square().mean()))
    tiny_pipeline.unet = dense
    assert damage[2] < damage[1] < damage[0]


def test_compact_equals_masked(tiny_pipeline: StableDiffusionPipeline) -> None:
    dense = tiny_pipeline.unet
    subspace = random_subspace(dense)
    solved = least_squares(tiny_pipeline, PROMPTS, subspace, **SHORT)
    inputs = (torch.randn(2, 4, 8, 8), 500, torch.randn(2, 12, 32))
    with torch.no_grad():
        small = compact(dense, subspace, compensate=solved)(*inputs).sample
        masked = prune(dense, subspace, compensate=solved)(*inputs).sample
    torch.testing.assert_close(small, masked, atol=1e-5, rtol=0)


def test_many_passes_give_the_same(tiny_pipeline: StableDiffusionPipeline) -> None:
    subspace = random_subspace(tiny_pipeline.unet)
    once = least_squares(tiny_pipeline, PROMPTS, subspace, **SHORT)
    often = least_squares(tiny_pipeline, PROMPTS, subspace, memory=1, **SHORT)
    assert once.keys() == often.keys()
    for path, correction in once.items():
        assert torch.equal(correction.weight, often[path].weight)


def test_passes_fill_the_memory_in_order() -> None:
    assert passes({"a": 3, "b": 3, "c": 5, "d": 1}, 6) == [["a", "b"], ["c", "d"]]
    assert passes({"a": 9, "b": 1}, 6) == [["a"], ["b"]]
    assert passes({}, 6) == []


def test_rows_that_are_not_finite_are_left_out() -> None:
    model = tiny("SD 1.4")
    site = next(iter(find_sites(model).values()))
    removed = torch.arange(site.neurons) < 9
    rows = torch.randn(40, site.neurons)
    clean, dirty = Gram(site, removed), Gram(site, removed)
    clean.add(rows)
    dirty.add(torch.cat([rows, torch.full((1, site.neurons), float("nan"))]))
    assert torch.equal(clean.inputs, dirty.inputs)


def test_a_name_alone_is_refused_with_what_to_pass() -> None:
    model = tiny("SD 1.4")
    with pytest.raises(InputError, match=r"memfast\.least_squares\("):
        compact(model, random_subspace(model), compensate="least_squares")
    with pytest.raises(InputError, match="mean, none, least_squares, not 'median'"):
        compact(model, random_subspace(model), compensate="median")


def test_a_correction_of_other_neurons_is_refused() -> None:
    model = tiny("SD 1.4")
    subspace = random_subspace(model)
    path = subspace.sites[0]
    channels = find_sites(model)[path].contraction.out_features
    with pytest.raises(InputError, match="other neurons"):
        compact(model, subspace, compensate={path: Correction(torch.zeros(channels, 3))})


def test_weights_are_compensated_by_their_mean() -> None:
    model = tiny("SD 1.4")
    path, site = next(iter(find_sites(model).items()))
    mask = (
        torch.rand(site.contraction.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    )
    mean = torch.randn(site.neurons, generator=torch.Generator().manual_seed(1))
    pruned = prune(model, Subspace(weights={path: mask}, mean={path: mean}), compensate="mean")
    after = find_sites(pruned)[path].contraction
    expected = site.contraction.bias + (site.contraction.weight * mask) @ mean
    torch.testing.assert_close(after.bias, expected)
    assert torch.equal(after.weight, site.contraction.weight * ~mask)
