"""Statistics against float64 torch; merging; files."""

from dataclasses import replace
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memfast_kernels import Moments, column_moments, merge

from memfast.errors import InputError
from memfast.files import save_tensors
from memfast.statistics import (
    FORMAT,
    MUST_AGREE,
    NeuronStatistics,
    check_comparable,
    shared_prompts,
)

FIELDS = ("count", "mean", "m2", "max_abs", "nonzero")


def statistics(rows: torch.Tensor, header: dict | None = None, **more) -> NeuronStatistics:
    """Statistics of one site and one step, of rows [rows, neurons]."""
    return NeuronStatistics({"site": column_moments(rows, backend="reference")}, header, **more)


def rows(count: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)) + mean


def same_bits(a: Moments, b: Moments) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.mark.parametrize("mean", [0.0, 1000.0, -3.0])
@pytest.mark.parametrize(("backend", "tolerance"), [("reference", 1e-9), ("cpu", 1e-6)])
def test_equal_to_float64_torch(mean, backend, tolerance):
    data = rows(77, 0, mean)
    data[::3, 1] = 0
    found = NeuronStatistics({"site": column_moments(data, backend=backend)})["site"]
    exact = data.double()
    torch.testing.assert_close(found.mean[0], exact.mean(0), rtol=tolerance, atol=1e-12)
    torch.testing.assert_close(
        found.variance[0], exact.var(0, correction=0), rtol=tolerance, atol=0
    )
    torch.testing.assert_close(found.l2_norm[0], exact.norm(dim=0), rtol=tolerance, atol=0)
    torch.testing.assert_close(found.rms[0], exact.square().mean(0).sqrt(), rtol=tolerance, atol=0)
    assert torch.equal(found.max_abs[0], data.abs().amax(0))
    assert torch.equal(found.nonzero[0], (data != 0).sum(0))
    assert found.count.tolist() == [[77] * 5]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.randoms())
def test_merging_is_exact_in_any_grouping(sizes, random):
    parts = [statistics(rows(size, seed, mean=50.0)) for seed, size in enumerate(sizes)]
    whole = torch.cat([rows(size, seed, mean=50.0) for seed, size in enumerate(sizes)]).double()
    grouped = list(parts)
    while len(grouped) > 1:
        place = random.randrange(len(grouped) - 1)
        grouped[place : place + 2] = [grouped[place] + grouped[place + 1]]
    found = grouped[0]["site"]
    torch.testing.assert_close(found.mean[0], whole.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found.variance[0], whole.var(0, correction=0), rtol=1e-12, atol=1e-12
    )
    assert int(found.count[0, 0]) == len(whole)


def test_the_same_order_gives_the_same_bits():
    parts = [statistics(rows(3, seed)) for seed in range(20)]
    first, second = (reduce(NeuronStatistics.merge, parts) for _ in range(2))
    assert same_bits(first.moments["site"], second.moments["site"])


def test_a_thousand_merges_do_not_drift():
    """The figure for 200,000 is in benchmarks/."""
    parts = rows(4 * 1000, 3, mean=1000.0).view(1000, 4, 5)
    state = Moments.empty(1, 5)
    for part in parts:
        state = merge(state, column_moments(part, backend="reference"))
    exact = parts.flatten(0, 1).double()
    torch.testing.assert_close(state.mean[0], exact.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(state.variance[0], exact.var(0, correction=0), rtol=1e-10, atol=0)


def test_an_empty_state_changes_nothing():
    some = statistics(rows(7, 1)).moments["site"]
    assert same_bits(merge(Moments.empty(1, 5), some), some)
    assert same_bits(merge(some, Moments.empty(1, 5)), some)


def test_files_hold_every_bit(tmp_path):
    header = {"model": "m", "seed": 3, "schedule": {"class": "DDIM"}, "prompt_ids": ["a"]}
    norms = {"site": column_moments(rows(3, 2).abs(), backend="reference")}
    skipped = [{"id": "x", "site": "site", "step": 2}]
    before = statistics(rows(9, 1), header, norms=norms, skipped=skipped)
    before.save(tmp_path / "s.safetensors")
    after = NeuronStatistics.load(tmp_path / "s.safetensors")
    assert after.header == header
    assert after.skipped == skipped
    assert same_bits(after.moments["site"], before.moments["site"])
    assert same_bits(after.norms["site"], before.norms["site"])


REFUSED = {
    "newer": ({"kind": "statistics", "format": FORMAT + 1}, "newer"),
    "another kind": ({"kind": "subspace", "format": 1}, "subspace"),
    "damaged": ({"kind": "statistics", "format": 1, "sites": ["s"], "skipped": []}, "lacks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_are_refused_with_the_reason(tmp_path, name):
    header, reason = REFUSED[name]
    save_tensors(tmp_path / "f", {"x": torch.zeros(1)}, header)
    with pytest.raises(InputError, match=reason):
        NeuronStatistics.load(tmp_path / "f")


@pytest.mark.parametrize("key", MUST_AGREE)
def test_unlike_statistics_are_not_merged(key):
    one, other = statistics(rows(2, 0), {key: "one"}), statistics(rows(2, 1), {key: "two"})
    with pytest.raises(InputError, match=r"'one'.*'two'"):
        one.merge(other)


def test_a_differing_schedule_is_named():
    one, other = ({"schedule": {"class": "DDIM", "beta_end": b}} for b in (0.02, 0.01))
    with pytest.raises(InputError, match=r"schedule\.beta_end is 0\.02 in one and 0\.01"):
        check_comparable(statistics(rows(2, 0), one), statistics(rows(2, 0), other))


def test_other_sites_are_not_merged():
    one = statistics(rows(2, 0))
    with pytest.raises(InputError, match="sites"):
        one.merge(NeuronStatistics({"elsewhere": one.moments["site"]}))
    with pytest.raises(InputError, match="'nowhere' is unknown"):
        one["nowhere"]


def test_merging_adds_up_prompts():
    one, other = ({"prompts": n, "prompt_ids": [f"p{n}"], "model": "m"} for n in (2, 3))
    merged = statistics(rows(2, 0), one) + statistics(rows(2, 1), other)
    assert merged.header == {"prompts": 5, "prompt_ids": ["p2", "p3"], "model": "m"}


def test_shared_prompts_are_named_by_id_and_by_text():
    headers = (
        {"prompt_ids": ["a", "b", "c"], "text_ids": ["1", "2", "3"]},
        {"prompt_ids": ["a", "x"], "text_ids": ["9", "3"]},
    )
    one, other = (statistics(rows(2, 0), header) for header in headers)
    assert shared_prompts(one, other) == ["a", "c"]


def test_variance_over_prompts():
    values = rows(6, 4).abs()
    found = statistics(rows(2, 0), norms={"site": column_moments(values, backend="reference")})
    torch.testing.assert_close(found["site"].norm_variance[0], values.double().var(0))
    assert found["site"].prompts.tolist() == [[6]]


def test_variance_over_prompts_needs_two_of_them():
    lonely = statistics(rows(2, 0), norms={"site": column_moments(rows(1, 0))})
    with pytest.raises(InputError, match="two prompts"):
        _ = lonely["site"].norm_variance
    with pytest.raises(InputError, match="prompt_norms=True"):
        _ = replace(lonely["site"], norms=None).norm_mean
