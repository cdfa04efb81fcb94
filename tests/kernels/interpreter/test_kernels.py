"""Every Triton kernel, interpreted on small odd shapes, against float64 and eager torch.

Uninitialised memory is filled with NaN, so that an element no kernel writes shows.
"""

import memfast_kernels as mk
import pytest
import torch

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32]
# rows, neurons, channels, rows of a segment; a chunk is 16 rows × 32 neurons, a tile of a product
# 32 or 64 rows × 16 neurons × 16 channels
SHAPES = [(1, 1, 8, None), (0, 5, 8, None), (77, 37, 45, None), (42, 16, 24, 21), (64, 33, 16, 32)]
TILES = [False, True]


@pytest.fixture(autouse=True)
def poisoned(device):
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def backend():
    """Imported late: without the interpreter there may be no Triton at all."""
    from memfast_kernels import triton_backend

    return triton_backend


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "neurons", "channels", "segment_rows"), SHAPES)
def test_pointwise(dtype, rows, neurons, channels, segment_rows, check_geglu, check_statistics):
    projected = torch.randn(rows, 2 * neurons).mul(3).to(dtype)
    hidden, moments = mk.geglu(projected, moments=True, segment_rows=segment_rows, backend="triton")
    check_geglu(hidden, projected, "gelu", True)
    check_statistics(moments, hidden, segment_rows)
    assert torch.equal(mk.geglu(projected, backend="triton"), hidden)


@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pointwise_gated(activation, dtype, check_geglu):
    projected = torch.randn(40, 74).mul(3).to(dtype)
    check_geglu(
        mk.geglu(projected, activation=activation, backend="triton"), projected, activation, True
    )


@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
def test_pointwise_plain(activation, check_geglu):
    x = torch.randn(20, 37).mul(2)
    hidden = mk.geglu(x, activation=activation, gated=False, backend="triton")
    check_geglu(hidden, x, activation, False)


@pytest.mark.parametrize("tma", TILES)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("rows", "neurons", "channels", "segment_rows"), SHAPES)
def test_dual_gemm(
    tma, dtype, rows, neurons, channels, segment_rows, check_linear, check_statistics, device
):
    needs_tma(tma, device)
    channels = -(-channels // 8) * 8 if tma else channels  # 16-byte rows
    x, weight = torch.randn(rows, channels).to(dtype), torch.randn(2 * neurons, channels)
    weight, bias = (weight / channels**0.5).to(dtype), torch.randn(2 * neurons).to(dtype)
    size = rows if segment_rows is None else segment_rows
    hidden, moments = backend().fused(x, weight, bias, "gelu", True, True, size, tma=tma)
    check_linear(hidden, x, weight, bias)
    check_statistics(moments, hidden, size)


@pytest.mark.parametrize("tma", TILES)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
def test_dual_gemm_variants(tma, exact, gated, activation, check_linear, device):
    needs_tma(tma, device)
    x, weight = torch.randn(20, 16).bfloat16(), (torch.randn(40, 16) / 4).bfloat16()
    hidden, _ = backend().fused(x, weight, None, activation, gated, exact, None, tma=tma)
    check_linear(hidden, x, weight, None, activation, gated)


def interleaved(weight):
    laid_out = backend().interleave(weight)
    if laid_out is None:
        pytest.skip("no tile of the paired product for this GPU")
    return laid_out


def needs_tma(tma, device):
    if tma and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 9:
        pytest.skip("tensor memory access needs sm_90")


def paired(x, weight, bias, activation, exact, size, tma):
    """The matrix product over interleaved weights."""
    laid_out = interleaved(weight)
    how = dict(interleaved=laid_out, tma=tma)
    return backend().fused(x, weight, bias, activation, True, exact, size, **how)


@pytest.mark.parametrize("tma", TILES)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("rows", "neurons", "channels", "segment_rows"),
    [*SHAPES, (1500, 5, 8, 750), (1100, 3, 8, None)],
)
def test_gated_gemm(
    tma, dtype, rows, neurons, channels, segment_rows, check_linear, check_statistics, device
):
    needs_tma(tma, device)
    channels = -(-channels // 8) * 8 if tma else channels
    x, weight = torch.randn(rows, channels).to(dtype), torch.randn(2 * neurons, channels)
    weight, bias = (weight / channels**0.5).to(dtype), torch.randn(2 * neurons).to(dtype)
    size = rows if segment_rows is None else segment_rows
    hidden, moments = paired(x, weight, bias, "gelu", True, size, tma)
    check_linear(hidden, x, weight, bias)
    check_statistics(moments, hidden, size)
    if segment_rows is None:  # elsewhere tiles start on other rows, which NumPy's product notices
        assert torch.equal(paired(x, weight, bias, "gelu", True, None, tma)[0], hidden)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
def test_gated_gemm_variants(exact, activation, check_linear):
    x, weight = torch.randn(20, 16).bfloat16(), (torch.randn(44, 16) / 4).bfloat16()
    check_linear(
        paired(x, weight, None, activation, exact, None, False)[0], x, weight, None, activation
    )


def test_prepared_weights_take_the_paired_product(check_linear, check_statistics):
    x, weight = torch.randn(2, 30, 16).bfloat16(), (torch.randn(44, 16) / 4).bfloat16()
    laid_out = interleaved(weight)
    prepared = mk.Prepared(weight, None, laid_out, weight._version)
    hidden, moments = mk.geglu_linear(x, prepared, moments=True, segment_rows=30, backend="triton")
    check_linear(hidden, x, weight, None)
    check_statistics(moments, hidden, 30)
    laid_out.zero_()
    assert not mk.geglu_linear(x, prepared, backend="triton").any(), "the copy is what is read"
    weight += 1
    with pytest.raises(ValueError, match="weight: changed in place since"):
        mk.geglu_linear(x, prepared, backend="triton")


def test_half_precision_takes_the_dual_gemm_and_float32_the_vendor_gemm(check_linear):
    for dtype in DTYPES:
        x, weight = torch.randn(9, 16).to(dtype), torch.randn(10, 16).to(dtype)
        check_linear(mk.geglu_linear(x, weight, backend="triton"), x, weight, None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize(("rows", "segment_rows"), [(77, None), (64, 32), (66, 33)])
def test_columns(dtype, mean, rows, segment_rows, check_statistics):
    values = (torch.randn(rows, 37) + mean).to(dtype)
    moments = mk.column_moments(values, segment_rows=segment_rows, backend="triton")
    check_statistics(moments, values, segment_rows)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("rows", [1023, 1024, 1700])
def test_a_long_walk_keeps_its_accuracy(mean, rows, check_statistics):
    """Also behind rows that no later one is like."""
    values = torch.randn(rows, 5) + mean
    values[0, 1] *= 50
    values[:16, 2] *= 50
    values[:, 3] += torch.arange(rows) / 10
    check_statistics(mk.column_moments(values, backend="triton"), values)
    _, moments = mk.geglu(values, moments=True, gated=False, activation="relu", backend="triton")
    check_statistics(moments, values.relu())


def test_a_segment_does_not_know_its_batch():
    values = torch.randn(5, 1100, 9)
    together = mk.column_moments(values, segment_rows=1100, backend="triton")
    alone = mk.column_moments(values[3], backend="triton")
    for name in ("mean", "m2", "max_abs", "nonzero"):
        assert torch.equal(getattr(together, name)[3:4], getattr(alone, name)), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("neurons", [20, 37, 100])  # one block of 32, two, four
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_rows_over_their_norm(dtype, neurons, mean):
    values = (torch.randn(70, neurons) + mean).to(dtype)
    values[3], values[0, 5] = 0, 50 * (mean + 1)
    found = mk.column_moments(values, row_normalised=True, segment_rows=35, backend="triton")
    wide = values.double()
    unit = (wide / wide.norm(dim=1, keepdim=True).clamp(min=1e-12)).view(2, 35, neurons)
    torch.testing.assert_close(found.l2_norm, unit.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.max_abs.double(), unit.abs().amax(1), rtol=1e-6, atol=0)
    assert ((found.mean - unit.mean(1)).abs() <= 1e-6 * unit.square().mean(1).sqrt()).all()
    assert torch.equal(found.nonzero, (unit != 0).sum(1))
    if mean == 0:
        m2 = (unit - unit.mean(1, keepdim=True)).square().sum(1)
        torch.testing.assert_close(found.m2, m2, rtol=1e-6, atol=0)


def test_columns_weighted_and_strided(check_statistics):
    values, weight = torch.randn(40, 74)[:, ::2], torch.rand(40)
    moments = mk.column_moments(values, row_weight=weight, backend="triton")
    check_statistics(moments, values * weight[:, None])


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_not_finite_shows(check_statistics):
    values = torch.randn(64, 9)
    values[5, 0], values[40, 1] = float("nan"), -float("nan")
    values[7, 2], values[8, 3] = float("inf"), -float("inf")
    values[9, 4], values[50, 4] = float("inf"), -float("inf")
    values[:, 5], values[:, 6], values[3:, 7] = 0.0, 5.0, 0.0
    check_statistics(mk.column_moments(values, backend="triton"), values)
    hidden, moments = mk.geglu(values[:, :8], moments=True, gated=False, backend="triton")
    check_statistics(moments, hidden)


def test_merging():
    parts = [mk.column_moments(torch.randn(30, 37) + 300, segment_rows=10) for _ in range(2)]
    empty = mk.Moments.empty(3, 37)
    for a, b in (parts, (parts[0], empty), (empty, parts[0])):
        found, expected = backend().merge(a, b), mk.merge(a, b)
        assert torch.equal(found.count, expected.count)
        assert torch.equal(found.nonzero, expected.nonzero)
        assert torch.equal(found.max_abs, expected.max_abs)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(found.m2, expected.m2, rtol=1e-12, atol=0)


def test_bits_repeat():
    projected = torch.randn(70, 20).bfloat16()
    first, second = (mk.geglu(projected, moments=True, backend="triton") for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1].m2, second[1].m2)
    assert torch.equal(first[1].mean, second[1].mean)


def test_opcheck():
    from memfast_kernels import ops

    torch.use_deterministic_algorithms(False)
    utilities = ("test_schema", "test_faketensor")
    arguments = (torch.randn(6, 8).bfloat16(), "gelu", True, 3, "triton")
    torch.library.opcheck(ops.geglu_moments, arguments, test_utils=utilities)
