"""Rounding and bucketing of widths, against brute force."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memfast import InputError, Subspace, compact, ffn_sites
from memfast.blocks.families import find_sites
from memfast.blocks.families.examples import tiny
from memfast.removing.widths import (
    bucketed,
    output_norms,
    round_down,
    round_to,
    warn_of_little_gain,
    widths_of,
)
from tests.support.models import random_subspace


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 9), st.booleans())
def test_round_to(limit: int, kept: int, multiple: int, down: bool) -> None:
    kept = min(kept, limit)
    width = round_to(kept, multiple, limit, down)
    assert 1 <= width <= limit
    assert width % multiple == 0 or width == limit
    if not down:
        assert width >= kept
        assert width - max(kept, 1) < multiple
    else:
        assert width <= max(kept, multiple)


def brute_force(widths: list[int], kinds: list[str], buckets: int, down: bool) -> int:
    """The least total change over every assignment of items to buckets."""
    best = 1 << 60
    for labels in product(range(buckets), repeat=len(widths)):
        groups = {label: [i for i, x in enumerate(labels) if x == label] for label in labels}
        if any(len({kinds[i] for i in group}) > 1 for group in groups.values()):
            continue
        cost = 0
        for group in groups.values():
            values = [widths[i] for i in group]
            target = min(values) if down else max(values)
            cost += sum(abs(v - target) for v in values)
        best = min(best, cost)
    return best


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from("ab")), min_size=1, max_size=6),
    st.integers(2, 3),
    st.booleans(),
)
def test_buckets_are_the_cheapest(items: list[tuple[int, str]], buckets: int, down: bool) -> None:
    widths = {str(i): width for i, (width, _) in enumerate(items)}
    kinds = {str(i): kind for i, (_, kind) in enumerate(items)}
    result = bucketed(widths, kinds, buckets, down)
    assert len({(kinds[path], width) for path, width in result.items()}) <= buckets
    assert all(result[p] <= widths[p] if down else result[p] >= widths[p] for p in widths)
    cost = sum(abs(result[path] - widths[path]) for path in widths)
    assert cost == brute_force(list(widths.values()), list(kinds.values()), buckets, down)


def test_fewer_buckets_than_kinds() -> None:
    with pytest.raises(InputError, match="at least 2, one a kind"):
        bucketed({"x": 1, "y": 2}, {"x": "a", "y": "b"}, 1)


@pytest.mark.parametrize("down", [False, True])
def test_a_model_gets_few_widths(down: bool) -> None:
    model = tiny("SDXL")
    subspace = random_subspace(model)
    sites = find_sites(model)
    if down:
        subspace = round_down(sites, subspace, output_norms(sites), 1, 2)
    smaller = compact(model, subspace, multiple_of=1, buckets=None if down else 2)
    assert len(set(ffn_sites(smaller).values())) <= 2
    expected = widths_of(sites, subspace, 1, 2)
    assert ffn_sites(smaller) == expected


def test_rounding_down_removes_the_least_of_the_ranking() -> None:
    model = tiny("SD 1.4")
    sites = find_sites(model)
    removed = {path: torch.arange(site.neurons) < 3 for path, site in sites.items()}
    ranking = {path: torch.arange(site.neurons).float() for path, site in sites.items()}
    rounded = round_down(sites, Subspace(removed), ranking, 8)
    assert all(int(mask.sum()) == 8 and bool(mask[:8].all()) for mask in rounded.neurons.values())
    assert all(int(mask.sum()) == 3 for mask in removed.values())


def test_a_warning_where_rounding_eats_the_gain(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("SD 1.4")
    few = Subspace({path: torch.arange(n) < 7 for path, n in ffn_sites(model).items()})
    widths = widths_of(find_sites(model), few, 8)
    message = warn_of_little_gain(few, widths)
    assert message is not None
    assert "0 of 28 removed" in message
    assert message in caplog.text
    assert warn_of_little_gain(few, widths_of(find_sites(model), few, 1)) is None


def test_everything_removed_leaves_one_multiple_of_zeros() -> None:
    model = tiny("SD 1.4")
    everything = Subspace({p: torch.ones(n, dtype=torch.bool) for p, n in ffn_sites(model).items()})
    smaller = compact(model, everything, multiple_of=8)
    assert set(ffn_sites(smaller).values()) == {8}
    for site in find_sites(smaller).values():
        assert not site.contraction.weight.any()


@pytest.mark.parametrize("multiple", [0, -8])
def test_multiples_below_one(multiple: int) -> None:
    model = tiny("SD 1.4")
    with pytest.raises(InputError, match="multiple_of must be at least 1"):
        compact(model, random_subspace(model), multiple_of=multiple)
