"""Masking, ablating and compacting: what they refuse, and what they leave as it was."""

import pytest
import torch

from memfast import InputError, Subspace, ablate, compact, ffn_sites, prune
from memfast.blocks.families import find_sites
from memfast.blocks.families.examples import tiny, tiny_inputs
from memfast.pipelines.identity import fingerprint
from tests.support.models import THIRD_PARTY, output, random_subspace, run

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]
# Packed, fused, without bias, of transformers, of convolutions.
NAMES = ["SD 1.4", "Flux.1", "Z-Image", "T5", "Sana 1.6B"]


@pytest.mark.parametrize("compensate", ["none", "mean"])
@pytest.mark.parametrize("name", NAMES)
def test_ablate_restores_every_bit(name: str, compensate: str) -> None:
    model = tiny(name)
    inputs, subspace = tiny_inputs(name, model), random_subspace(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [id(p) for p in model.parameters()]
    plain = output(model, inputs)
    with pytest.raises(ZeroDivisionError), ablate(model, subspace, compensate=compensate):  # noqa: PT012
        inside = output(model, inputs)
        raise ZeroDivisionError
    assert torch.equal(inside, output(prune(model, subspace, compensate=compensate), inputs))
    assert not torch.equal(inside, plain)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], value) for key, value in after.items())
    assert [id(p) for p in model.parameters()] == parameters
    assert torch.equal(output(model, inputs), plain)


@pytest.mark.parametrize("name", NAMES)
def test_the_given_model_and_its_config_stay(name: str) -> None:
    model = tiny(name)
    kind, config = type(model), str(model.config)
    sites = ffn_sites(model)
    compact(model, random_subspace(model))
    assert (type(model), str(model.config), ffn_sites(model)) == (kind, config, sites)
    assert not any("kept_neurons" in key for key in model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_in_place_is_the_same_result(name: str) -> None:
    model, other = tiny(name), tiny(name)
    subspace = random_subspace(model)
    copy = compact(model, subspace)
    given = compact(other, subspace, in_place=True)
    assert given is other
    assert type(given) is type(copy)
    states = [m.state_dict() for m in (copy, given)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_through_the_result_alone(name: str) -> None:
    model = tiny(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    smaller = compact(model, random_subspace(model)).train()
    optimizer = torch.optim.SGD(smaller.parameters(), lr=0.1)
    run(smaller, tiny_inputs(name, model)).square().mean().backward()
    for site in find_sites(smaller).values():
        assert all(p.grad is not None and p.grad.shape == p.shape for p in site.block.parameters())
    optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_filling_has_zero_output_weights() -> None:
    model = tiny("SD 1.4")
    subspace = Subspace({path: torch.arange(n) < 5 for path, n in ffn_sites(model).items()})
    smaller = compact(model, subspace, multiple_of=8)
    assert ffn_sites(smaller) == ffn_sites(model)  # 123 of 128 round up to 128
    for site in find_sites(smaller).values():
        assert not site.contraction.weight[:, :5].any()
        assert site.contraction.weight[:, 5:].any(0).all()


def test_some_sites_only() -> None:
    model = tiny("Flux.1")
    path, neurons = list(ffn_sites(model).items())[-1]
    smaller = compact(model, Subspace({path: torch.arange(neurons) < 50}), multiple_of=1)
    assert ffn_sites(smaller) == {**ffn_sites(model), path: neurons - 50}
    assert smaller.config.ffn_inner_dims == {path: neurons - 50}
    assert smaller.get_submodule(path).mlp_hidden_dim == neurons - 50
    assert smaller.get_submodule(path).proj_out._tp_packed_row_blocks == [32, neurons - 50]


def test_weights_cannot_be_compacted() -> None:
    model = tiny("SD 1.4")
    path, site = next(iter(find_sites(model).items()))
    mask = torch.zeros(site.contraction.out_features, site.neurons, dtype=torch.bool)
    with pytest.raises(InputError, match="use prune for weights"):
        compact(model, Subspace(weights={path: mask}))


def test_subspaces_that_do_not_fit() -> None:
    model = tiny("SD 1.4")
    path, neurons = next(iter(ffn_sites(model).items()))
    with pytest.raises(InputError, match=r"has shape \(3,\), not \(128,\)"):
        compact(model, Subspace({path: torch.ones(3).bool()}))
    with pytest.raises(InputError, match=r"unknown site 'nowhere'; the sites are down_blocks"):
        prune(model, Subspace({"nowhere": torch.ones(neurons).bool()}))
    other = Subspace(
        {path: torch.ones(neurons).bool()}, header={"model": fingerprint(tiny("SDXL"))}
    )
    with pytest.raises(InputError, match="located on another model"):
        compact(model, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype: torch.dtype) -> None:
    model = tiny("PixArt-Σ").to(dtype)
    smaller = compact(model, random_subspace(model), multiple_of=1)
    assert {p.dtype for p in smaller.parameters()} == {dtype}
    masked = prune(model, random_subspace(model), compensate="mean")
    for path, site in find_sites(smaller).items():
        kept = ~random_subspace(model).neurons[path]
        other = find_sites(masked)[path].contraction
        assert torch.equal(site.contraction.weight, other.weight[:, kept])
        assert torch.equal(site.contraction.bias, other.bias)
