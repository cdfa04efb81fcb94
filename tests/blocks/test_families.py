"""Every family, from statistics to a reloaded compact model."""

from pathlib import Path

import pytest
import torch
from torch import nn

from memfast import InputError, Subspace, compact, ffn_sites, locate, prune
from memfast.blocks.families import FAMILIES, find_sites
from memfast.blocks.families.examples import EXAMPLES, tiny, tiny_inputs
from tests.support.models import THIRD_PARTY, output, statistics

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]
ORDER_UNKNOWN = {"Lumina 2"}  # runs its two refiners in another order than it declares them


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("compensate", ["none", "mean"])
def test_from_statistics_to_a_reloaded_compact_model(
    name: str, compensate: str, tmp_path: Path
) -> None:
    dense = tiny(name)
    inputs = tiny_inputs(name, dense)
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    memorized, reference = (statistics(name, dense, seed) for seed in (2, 3))
    subspace = locate(memorized, reference, dense, fraction=0.3)

    smaller = compact(dense, subspace, multiple_of=3, compensate=compensate)
    masked = prune(dense, subspace, compensate=compensate)
    small = output(smaller, inputs)
    torch.testing.assert_close(small, output(masked, inputs), atol=1e-5, rtol=0)
    assert not torch.allclose(small, output(dense, inputs), atol=1e-5)
    assert isinstance(smaller, type(dense))
    for path, neurons in ffn_sites(smaller).items():
        removed = int(subspace.neurons[path].sum())
        dense_neurons = len(subspace.neurons[path])
        assert neurons == min(-(-(dense_neurons - removed) // 3) * 3, dense_neurons)

    smaller.save_pretrained(tmp_path)
    reloaded = type(smaller).from_pretrained(tmp_path)
    assert torch.equal(output(reloaded, inputs), small)
    assert reloaded.state_dict().keys() == smaller.state_dict().keys()

    after = dense.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], value) for key, value in after.items())
    theirs = {tensor.data_ptr() for tensor in after.values() if tensor.numel()}
    assert not [k for k, v in smaller.state_dict().items() if v.numel() and v.data_ptr() in theirs]


@pytest.mark.parametrize("name", EXAMPLES)
def test_sites_are_in_execution_order(name: str) -> None:
    model = tiny(name)
    sites, ran = find_sites(model), []
    for path, site in sites.items():
        site.contraction.register_forward_pre_hook(lambda *_, path=path: ran.append(path))
    output(model, tiny_inputs(name, model))
    assert sorted(ran) == sorted(sites)
    if name not in ORDER_UNKNOWN:
        assert ran == list(sites)


@pytest.mark.parametrize("name", EXAMPLES)
def test_parameters_per_neuron(name: str) -> None:
    model = tiny(name)
    path, site = next(iter(find_sites(model).items()))
    before, each = sum(p.numel() for p in model.parameters()), site.parameters_per_neuron
    mask = {path: torch.arange(site.neurons) < 5}
    smaller = compact(model, Subspace(mask), multiple_of=1, compensate="none")
    assert before - sum(p.numel() for p in smaller.parameters()) == 5 * each


def test_every_example_names_a_family_and_families_differ() -> None:
    seen = {site.family for name in EXAMPLES for site in find_sites(tiny(name)).values()}
    assert len(FAMILIES) == len(set(FAMILIES))
    assert {f.name for f in seen} == {f.name for f in FAMILIES}


class OwnFeedForward(nn.Module):
    """A stranger's block, laid out like a known one."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(6, 10, bias=False), nn.Linear(6, 10, bias=False)
        self.w2 = nn.Linear(10, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(torch.relu(self.w1(x)) * self.w3(x))


def test_a_block_is_known_by_its_structure() -> None:
    model = nn.Sequential(nn.Linear(6, 6), OwnFeedForward())
    assert ffn_sites(model) == {"1": 10}


def test_experts_are_left_alone() -> None:
    model = nn.Module()
    model.experts, model.shared = nn.ModuleList([OwnFeedForward()]), OwnFeedForward()
    assert ffn_sites(model) == {"shared": 10}


def test_a_model_without_feed_forwards_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match=r"Linear has no feed-forward .*SD1/2/XL.*Flux.*T5"):
        ffn_sites(nn.Linear(2, 2))
