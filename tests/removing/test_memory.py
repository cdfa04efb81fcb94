"""Memory while compacting: the given model, plus the result (or nothing), plus one block."""

import pytest
import torch
from torch import nn

from memfast import compact
from memfast.blocks.families import find_sites
from memfast.blocks.families.examples import EXAMPLES, tiny
from tests.support.memory import Meter
from tests.support.models import THIRD_PARTY, random_subspace

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]
SMALL = 4096  # bytes: indices, biases, one block's kept neurons


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def largest_block(model: nn.Module) -> int:
    return max(
        sum(p.nbytes for linear in (*s.expansions, s.contraction) for p in linear.parameters())
        for s in find_sites(model).values()
    )


def test_the_meter_counts_what_is_alive() -> None:
    weight = torch.ones(100)
    with Meter([weight]) as meter:
        a = weight * 2
        del a
        b = torch.zeros(50)
        c = b.view(5, 10)
        assert meter.live == 200
        del b, c
    assert (meter.peak, meter.live) == (400, 0)


@pytest.mark.parametrize("compensate", ["none", "mean"])
@pytest.mark.parametrize("name", ["SD 1.4", "SDXL", "Flux.1", "Flux.2", "Z-Image"])
def test_a_copy_takes_the_result_and_one_block(name: str, compensate: str) -> None:
    model = tiny(name)
    subspace, block = random_subspace(model), largest_block(model)
    with Meter(tensors(model)) as meter:
        smaller = compact(model, subspace, compensate=compensate)
    result = sum(tensor.nbytes for tensor in tensors(smaller))
    assert meter.peak <= result + block + SMALL
    assert result < sum(tensor.nbytes for tensor in tensors(model))


@pytest.mark.parametrize("name", EXAMPLES)
def test_in_place_takes_one_block(name: str) -> None:
    model = tiny(name)
    subspace, block = random_subspace(model), largest_block(model)
    with Meter(tensors(model)) as meter:
        smaller = compact(model, subspace, in_place=True)
    assert smaller is model
    assert meter.peak <= block + SMALL
