"""Moments: joined in any way, they equal the statistics of all rows, computed by NumPy."""

import memfast_kernels as mk
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.cpu_only(
    "NumPy is the reference; merging on a GPU is tested in interpreter/"
)


def exact(values: np.ndarray) -> mk.Moments:
    """Statistics of one segment of rows, by NumPy in float64."""
    values = values.astype(np.float64)
    return mk.Moments(
        count=torch.tensor([len(values)]),
        mean=torch.from_numpy(values.mean(0, keepdims=True)),
        m2=torch.from_numpy(values.var(0, keepdims=True) * len(values)),
        max_abs=torch.from_numpy(np.abs(values).max(0, keepdims=True)).float(),
        nonzero=torch.from_numpy(np.count_nonzero(values, 0)[None]).long(),
    )


def close(found: mk.Moments, expected: mk.Moments, rtol: float = 1e-9) -> None:
    assert torch.equal(found.count, expected.count)
    assert torch.equal(found.nonzero, expected.nonzero)
    torch.testing.assert_close(found.max_abs, expected.max_abs, rtol=0, atol=0)
    torch.testing.assert_close(found.mean, expected.mean, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(found.m2, expected.m2, rtol=rtol, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    mean=st.sampled_from([0.0, 1.0, -300.0, 1000.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_merging_parts_equals_all_rows(sizes: list[int], mean: float, seed: int) -> None:
    parts = [np.random.default_rng(seed + i).normal(mean, 1, (n, 3)) for i, n in enumerate(sizes)]
    joined = exact(parts[0])
    for part in parts[1:]:
        joined = mk.merge(joined, exact(part))
    close(joined, exact(np.concatenate(parts)))


def test_an_empty_side_changes_no_bit() -> None:
    moments = exact(np.random.default_rng(0).normal(1000, 1, (7, 5)))
    empty = mk.Moments.empty(1, 5)
    for joined in (mk.merge(moments, empty), mk.merge(empty, moments)):
        for name in ("count", "mean", "m2", "max_abs", "nonzero"):
            assert torch.equal(getattr(joined, name), getattr(moments, name)), name


def test_a_long_run_neither_drifts_nor_miscounts() -> None:
    rows = np.random.default_rng(1).normal(300, 1, (8191, 2))
    part, state = exact(rows), exact(rows)
    for _ in range(2999):
        state = mk.merge(state, part)
    assert state.count.item() == 3000 * 8191
    torch.testing.assert_close(state.m2, 3000 * part.m2, rtol=1e-9, atol=0)
    torch.testing.assert_close(state.mean, part.mean, rtol=1e-12, atol=0)


def test_properties_by_hand() -> None:
    moments = mk.column_moments(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, -6.0]]))
    assert moments.variance.tolist() == [[8 / 3, 8.0]]
    torch.testing.assert_close(moments.l2_norm[0], torch.tensor([35.0, 36.0]).double().sqrt())
    assert moments.max_abs.tolist() == [[5.0, 6.0]]
    assert moments.nonzero.tolist() == [[3, 1]]


@pytest.mark.parametrize("segments", [1, 2, 3, 7])
def test_pooling_is_merging(segments: int) -> None:
    values = torch.randn(segments * 5, 4, dtype=torch.float64) + 1000
    parts = mk.column_moments(values, segment_rows=5)
    close(parts.pool(), exact(values.numpy()))
    close(parts.select(slice(0, 1)).pool(), exact(values[:5].numpy()))
    merged = mk.Moments.empty(1, 4)
    for segment in range(segments):
        merged = mk.merge(merged, parts.select(slice(segment, segment + 1)))
    for name in mk.Moments.__dataclass_fields__:
        torch.testing.assert_close(
            getattr(parts.pool(), name), getattr(merged, name), rtol=1e-12, atol=0
        )


def test_pooling_with_empty_segments_changes_no_bit() -> None:
    part = mk.column_moments(torch.randn(7, 4) + 1000)
    pooled = mk.Moments.cat([mk.Moments.empty(2, 4), part, mk.Moments.empty(1, 4)]).pool()
    for name in mk.Moments.__dataclass_fields__:
        assert torch.equal(getattr(pooled, name), getattr(part, name)), name


def test_pooling_shows_what_is_not_finite() -> None:
    values = torch.ones(6, 2)
    values[4, 1] = torch.inf
    pooled = mk.column_moments(values, segment_rows=2).pool()
    assert pooled.variance[0].isfinite().tolist() == [True, False]


def test_pooling_nothing_is_one_empty_segment() -> None:
    pooled = mk.Moments.empty(0, 4).pool()
    assert pooled.count.tolist() == [0]
    assert pooled.variance.tolist() == [[0.0] * 4]


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(2, 4\)"):
        mk.merge(mk.Moments.empty(1, 4), mk.Moments.empty(2, 4))
