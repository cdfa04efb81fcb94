"""Selections against plain sorting, ties, files, controls."""

import pytest
import torch

from memfast.errors import InputError
from memfast.selection import (
    FORMAT,
    PER,
    StepCount,
    Subspace,
    columns_of_rows,
    contrast_of_rows,
    random_like,
    top,
)

SITES = {"a": (5, 13), "b": (4, 7)}


def scores(levels: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random scores of weights; with `levels`, only so many different values."""
    generator = torch.Generator().manual_seed(seed)
    found = {site: torch.randn(shape, generator=generator) for site, shape in SITES.items()}
    return {s: (v * levels).round() / levels if levels else v for s, v in found.items()}


def best(values: list[float], count: int) -> set[int]:
    """Places of the largest; of equal ones the first."""
    return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


def plain(values: dict[str, torch.Tensor], fraction: float, per: str) -> dict[str, torch.Tensor]:
    """`top` by sorting lists."""
    if per == "row":
        return {
            site: torch.stack(
                [
                    torch.tensor([j in best(r, int(fraction * len(r))) for j in range(len(r))])
                    for r in value.tolist()
                ]
            )
            for site, value in values.items()
        }
    if per == "site":
        parts = [plain({site: value}, fraction, "global") for site, value in values.items()]
        return parts[0] | parts[1]
    flat = torch.cat([value.flatten() for value in values.values()]).tolist()
    chosen = best(flat, int(fraction * len(flat)))
    masks, start = {}, 0
    for site, value in values.items():
        places = range(start, start + value.numel())
        masks[site] = torch.tensor([i in chosen for i in places]).view_as(value)
        start += value.numel()
    return masks


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("fraction", [0.15, 0.5, 0.93])
@pytest.mark.parametrize("per", PER)
def test_top_equals_sorting(per, fraction, levels):
    values = scores(levels)
    found, expected = top(values, fraction, per), plain(values, fraction, per)
    assert all(torch.equal(found[site], expected[site]) for site in SITES)


def test_top_of_neurons():
    values = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([2.0, 5.0])}
    found = top(values, 0.6)
    assert found["a"].tolist() == [True, False, True]  # of the two 2.0 the earlier site's
    assert found["b"].tolist() == [False, True]


@pytest.mark.parametrize(("fraction", "per"), [(0.0, "global"), (1.0, "row"), (0.2, "column")])
def test_bad_arguments(fraction, per):
    with pytest.raises(InputError):
        top(scores(), fraction, per)


@pytest.mark.parametrize("per", PER)
def test_less_than_one_is_refused(per):
    with pytest.raises(InputError, match="less than one"):
        top(scores(), 0.001, per)


def test_columns_of_rows_at_the_ends():
    values = scores()["a"]
    assert columns_of_rows(values, 0).shape == (5, 0)
    assert columns_of_rows(values, 13).sort().values.tolist() == [list(range(13))] * 5


def test_contrast_by_hand():
    """arXiv 2406.18566 on a case small enough to check on paper: k = 2 of 4."""
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.5], [-4.0, 1.0, 1.0, 1.0]])
    memorized, reference = torch.tensor([4.0, 2.0, 1.0, 1.0]), torch.tensor([5.0, 1.0, 0.5, 2.0])
    # |W|·n: 4 4 3 .5 -> columns 0 and 1, but 0 is larger in the reference; 16 2 1 1 -> 0 and 1
    expected = [[False, True, False, False], [False, True, False, False]]
    assert contrast_of_rows(weight, memorized, reference, 0.5).tolist() == expected


def test_contrast_leaves_out_weights_of_zero():
    zero = torch.zeros(2, 3)
    assert not contrast_of_rows(zero, torch.ones(3), torch.zeros(3), 0.9).any()


def test_step_count():
    counted = StepCount()
    for row in ([1, 1, 0], [1, 0, 0], [1, 1, 0]):
        counted.add({"s": torch.tensor(row, dtype=torch.bool)})
    kept = [counted.at_least(steps)["s"].tolist() for steps in (1, 2, 3)]
    assert kept == [[True, True, False], [True, True, False], [True, False, False]]


def test_overlap_by_hand():
    one = Subspace(neurons={"s": torch.tensor([1, 1, 0, 0]).bool(), "t": torch.zeros(2).bool()})
    two = Subspace(neurons={"s": torch.tensor([0, 1, 1, 0]).bool(), "t": torch.zeros(2).bool()})
    assert one.overlap(two) == {"s": pytest.approx(1 / 3), "t": 1.0}
    assert one.density == 2 / 6
    with pytest.raises(InputError, match="same sites"):
        one.overlap(Subspace(neurons={"s": torch.zeros(4).bool()}))


def test_a_random_control_is_as_large():
    located = Subspace(weights=top(scores(), 0.3))
    draws = [random_like(located, seed) for seed in (0, 0, 1)]
    assert {draw.removed for draw in draws} == {located.removed}
    same, other = (draws[0].overlap(draw) for draw in draws[1:])
    assert set(same.values()) == {1.0}
    assert min(other.values()) < 1.0


def test_files(tmp_path):
    path = tmp_path / "s.safetensors"
    before = Subspace(
        weights=top(scores(), 0.3), mean={"a": torch.rand(13)}, header={"model": "m", "steps": 3}
    )
    before.save(path)
    after = Subspace.load(path)
    assert after.header["model"] == "m"
    assert all(torch.equal(after.weights[s], before.weights[s]) for s in SITES)
    assert torch.equal(after.mean["a"], before.mean["a"])
    with pytest.raises(InputError, match="not neurons"):
        _ = after.neurons


def test_a_newer_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "s.safetensors"
    monkeypatch.setattr("memfast.selection.FORMAT", FORMAT + 1)
    Subspace(neurons={"s": torch.ones(3).bool()}).save(path)
    monkeypatch.undo()
    with pytest.raises(InputError, match="newer"):
        Subspace.load(path)


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(3, 3).bool()])
def test_masks_are_checked(mask):
    with pytest.raises(InputError, match="bool tensor of 1"):
        Subspace(neurons={"s": mask})
