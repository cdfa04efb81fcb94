"""Counting pairs of masks and the permutation test, by hand."""

from itertools import combinations

import pytest
import torch

from memfast.overlap import Arm, between, count_pairs, more_shared, within


def test_pairs():
    assert within("m", 3) == [(("m", 0), ("m", 1)), (("m", 0), ("m", 2)), (("m", 1), ("m", 2))]
    assert len(between("m", "r", 3)) == 9


def test_counts_by_hand():
    masks = {
        ("m", 0): torch.tensor([1, 1, 0, 0]).bool(),
        ("m", 1): torch.tensor([0, 1, 1, 0]).bool(),
        ("r", 0): torch.zeros(4).bool(),
    }
    pairs = [(("m", 0), ("m", 1)), (("m", 0), ("r", 0)), (("r", 0), ("r", 0))]
    assert count_pairs(masks, pairs).tolist() == [[1, 3], [0, 2], [0, 0]]


def test_an_arm_pools_sites_and_keeps_steps_apart():
    # one pair, two sites, two steps and the final mask
    counts = torch.tensor([[[[1, 2], [0, 4], [1, 2]], [[3, 4], [2, 2], [0, 0]]]])
    arm = Arm(within("m", 2), ["a", "b"], counts)
    assert arm.by_step.tolist() == pytest.approx([4 / 6, 2 / 6])
    assert arm.iou.tolist() == [0.5]
    assert arm.by_site.tolist() == [[0.5, 0.0], [0.75, 1.0]]
    assert arm.final_by_site.tolist() == [0.5, 1.0]


def blocks(first: float, second: float, mixed: float, size: int) -> torch.Tensor:
    matrix = torch.full((2 * size, 2 * size), mixed, dtype=torch.float64)
    matrix[:size, :size], matrix[size:, size:] = first, second
    return matrix


def test_the_most_extreme_labelling_has_the_least_p():
    found = more_shared(blocks(0.6, 0.2, 0.3, 4), 4)
    assert (found.first, found.second) == (pytest.approx(0.6), pytest.approx(0.2))
    assert found.p == pytest.approx(1 / len(list(combinations(range(8), 4))))
    assert found.more_shared


@pytest.mark.parametrize(("first", "second"), [(0.4, 0.4), (0.2, 0.6)])
def test_alike_sets_are_not_called_more_shared(first, second):
    found = more_shared(blocks(first, second, 0.4, 4), 4)
    assert not found.more_shared
    assert found.p > 0.5
