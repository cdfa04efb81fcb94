"""The one pass in C against the passes of torch, which need no compiler at install."""

import pytest
import torch
from memfast_kernels import column_moments, cpu_sums
from memfast_kernels.cpu_sums import Products, Sums, Totals

pytestmark = pytest.mark.cpu_only("the cpu backend's own")

needs_c = pytest.mark.skipif(cpu_sums.LIBRARY is None, reason="no compiler at install")


def sums(values: torch.Tensor, halved: bool = True, weighted: bool = False) -> Totals:
    weights = torch.linspace(-1, 2, values.shape[0] * values.shape[1]) if weighted else None
    found = Sums(len(values) + 2, values.shape[2], halved)
    found.add(values, 1, weights)
    found.add(values, 1, weights)
    return found.totals()


def both(values: torch.Tensor, monkeypatch, **how: bool) -> tuple[Totals, Totals]:
    """In C, and by torch alone."""
    in_c = sums(values, **how)
    monkeypatch.setattr(cpu_sums, "LIBRARY", None)
    return in_c, sums(values, **how)


@needs_c
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 37), (2, 8, 128), (1, 77, 257), (5, 16, 300)])
@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_c_counts_what_torch_counts(shape, halved, weighted, monkeypatch):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = 0
    ours, theirs = both(values, monkeypatch, halved=halved, weighted=weighted)
    assert torch.allclose(ours.sum, theirs.sum, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours.squares, theirs.squares, rtol=1e-12, atol=0)
    assert torch.equal(ours.peak, theirs.peak)
    assert torch.equal(ours.nonzero, theirs.nonzero)
    assert not ours.sum[0].any(), "other segments are left alone"
    assert not ours.sum[-1].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 37), (2, 8, 128), (1, 77, 257), (1, 9, 700)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("halved", [False, True])
def test_products_are_torchs_own_and_counted(shape, dtype, halved):
    segments, rows, neurons = shape
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(segments * rows, 2 * neurons, generator=generator).to(dtype)
    activated = projected[:, neurons:].sin()
    found, again = (Sums(segments + 2, neurons, halved) for _ in range(2))
    for counted in (found, None):
        hidden = torch.full((2 + segments * rows, neurons), float("nan"), dtype=dtype)
        Products(hidden, counted).add(projected, activated, 2, segments, 1)
        assert torch.equal(hidden[2:], projected[:, :neurons] * activated)
        assert hidden[:2].isnan().all(), "other rows are left alone"
    again.add(hidden[2:].view(shape), 1)
    assert all(map(torch.equal, found.totals()[2:], again.totals()[2:]))
    for ours, theirs in zip(found.totals()[:2], again.totals()[:2], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_products_that_fill_huge_pages():
    projected = torch.randn(4100, 2 * 2050, generator=torch.Generator().manual_seed(0))
    hidden = torch.empty(4100, 2050)
    assert hidden.nbytes > cpu_sums.FRESH_BYTES
    Products(hidden, None).add(projected, projected[:, 2050:].sin(), 0)
    assert torch.equal(hidden, projected[:, :2050] * projected[:, 2050:].sin())


@needs_c
@pytest.mark.parametrize("halved", [False, True])
def test_moments_in_c_are_torchs(halved, monkeypatch):
    values = torch.randn(3, 40, 37, generator=torch.Generator().manual_seed(0))
    values[1, :, 5:9] += 1e6
    values[2, 3, 2] = float("nan")
    found = Sums(3, 37, halved)
    found.add(values, 0)
    *ours, cancelled = found.moments(40, 1e-6)
    monkeypatch.setattr(cpu_sums, "LIBRARY", None)
    *theirs, expected = found.moments(40, 1e-6)
    assert cancelled == expected == 4
    ours[1][1, 5:9] = theirs[1][1, 5:9] = 0  # nothing is left of these
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-9, atol=0, equal_nan=True)


@needs_c
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf"), 1e30])
def test_c_hides_nothing_bad(bad, monkeypatch):
    values = torch.ones(2, 9, 5)
    values[1, 3, 2] = bad
    ours, theirs = both(values, monkeypatch)
    assert torch.equal(ours.squares.isfinite(), theirs.squares.isfinite())
    assert torch.equal(ours.peak.isnan(), theirs.peak.isnan())
    assert torch.equal(ours.peak.nan_to_num(), theirs.peak.nan_to_num())


@needs_c
@pytest.mark.usefixtures("one_thread")  # gives the number of before back
@pytest.mark.parametrize("halved", [False, True])
def test_the_number_of_threads_changes_no_bit(halved):
    projected = torch.randn(300, 2 * 700, generator=torch.Generator().manual_seed(0))

    def run(threads: int) -> tuple[torch.Tensor, ...]:
        torch.set_num_threads(threads)
        hidden, counted = torch.empty(300, 700), Sums(1, 700, halved)
        Products(hidden, counted).add(projected, projected[:, 700:].sin(), 0)
        counted.add(hidden[None], 0)
        return hidden, *counted.totals()

    alone, *others = (run(threads) for threads in (1, 2, 5, 64))
    for other in others:
        assert all(map(torch.equal, alone, other))


def test_a_float64_weight_is_not_rounded():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 5, generator=generator, dtype=torch.float64)
    weight = torch.rand(64, generator=generator, dtype=torch.float64)
    found, exact = (
        column_moments(rows, row_weight=weight, segment_rows=16, backend=backend)
        for backend in ("cpu", "reference")
    )
    assert torch.allclose(found.mean, exact.mean, rtol=1e-12, atol=1e-14)
    assert torch.allclose(found.m2, exact.m2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_without_the_compiled_pass(monkeypatch, mean, scale):
    monkeypatch.setattr(cpu_sums, "LIBRARY", None)
    rows = (torch.randn(512, 40, generator=torch.Generator().manual_seed(0)) + mean) * scale
    found = column_moments(rows, segment_rows=128, backend="cpu")
    exact = column_moments(rows, segment_rows=128, backend="reference")
    assert torch.allclose(found.mean, exact.mean, rtol=1e-12, atol=1e-12 * scale)
    assert torch.allclose(found.m2, exact.m2, rtol=1e-8, atol=0)
    assert torch.equal(found.max_abs, exact.max_abs)
