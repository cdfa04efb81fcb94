"""The operators on this machine's backends, against eager torch and float64."""

import memfast_kernels as mk
import pytest
import torch
from memfast_kernels import reference, shapes
from torch.utils._python_dispatch import TorchDispatchMode

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32, torch.float64]
# rows, neurons, rows of a segment
SHAPES = [(1, 1, None), (0, 5, None), (4, 0, None), (77, 45, None), (77, 45, 7), (300, 37, 1),
          (260, 700, 130), (3000, 64, 1000)]  # fmt: skip


@pytest.fixture(autouse=True)
def seed(device: torch.device) -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "neurons", "segment_rows"), SHAPES)
def test_shapes_and_types(
    backend, dtype, rows, neurons, segment_rows, check_geglu, check_statistics, device
):
    if backend not in mk.available(device, dtype):
        pytest.skip(f"{backend} does not run {dtype}")
    projected = torch.randn(rows, 2 * neurons).mul(2).to(dtype)
    hidden, moments = mk.geglu(projected, moments=True, segment_rows=segment_rows, backend=backend)
    check_geglu(hidden, projected, "gelu", True)
    check_statistics(moments, hidden, segment_rows)
    assert torch.equal(mk.geglu(projected, backend=backend), hidden)


@pytest.mark.cpu_only("the promise of equal bits is the cpu backend's")
@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_the_cpu_backend_equals_eager_bit_by_bit(activation, gated, dtype, eager, check_statistics):
    projected = torch.randn(3, 101, 62).mul(3).to(dtype)
    hidden, moments = mk.geglu(projected, activation=activation, gated=gated, moments=True)
    assert torch.equal(hidden, eager(projected, activation, gated))
    check_statistics(moments, hidden)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
def test_linear(backend, bias, gated, activation, check_linear, check_statistics):
    x, weight = torch.randn(2, 77, 37), torch.randn(90, 37) / 6
    arguments = (x, weight, torch.randn(90) if bias else None)
    settings = dict(activation=activation, gated=gated, backend=backend)
    hidden, moments = mk.geglu_linear(*arguments, moments=True, segment_rows=77, **settings)
    check_linear(hidden, *arguments, activation, gated)
    check_statistics(moments, hidden, 77)
    assert torch.equal(mk.geglu_linear(*arguments, **settings), hidden)


def test_linear_in_several_groups_of_blocks(check_linear, check_statistics):
    x, weight = torch.randn(1300, 24), torch.randn(5120, 24) / 5
    hidden, moments = mk.geglu_linear(x, weight, moments=True, segment_rows=650)
    check_linear(hidden, x, weight, None)
    check_statistics(moments, hidden, 650)


@pytest.mark.parametrize("rows", [1, 32, 4096])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1000.0])
def test_a_mean_far_from_zero_costs_no_accuracy(backend, rows, mean, check_statistics):
    values = torch.randn(rows, 33) + mean
    check_statistics(mk.column_moments(values, backend=backend), values)


@pytest.mark.parametrize("rows", [64, 640])
def test_what_is_not_finite_shows(backend, rows, check_statistics):
    values = torch.randn(rows, 12)
    values[5, 0], values[6, 1] = float("nan"), -float("nan")
    values[7, 2], values[8, 3] = float("inf"), -float("inf")
    values[9, 4], values[10, 4] = float("inf"), -float("inf")
    values[:, 5], values[:, 6], values[3:, 7] = 0.0, 5.0, 0.0
    values[:, 8] *= 1e-15  # squares are summed in float32 on a GPU
    values[:, 9] *= 1e15
    moments = mk.column_moments(values, backend=backend)
    check_statistics(moments, values)
    assert not moments.mean[0, :5].isfinite().any()
    assert moments.max_abs[0, :2].isnan().all()
    assert moments.max_abs[0, 2:5].isinf().all()


@pytest.mark.parametrize("share", [0.001, 0.5])
@pytest.mark.parametrize("segment_rows", [None, 4, 500])
@pytest.mark.parametrize("weighted", [True, False])
def test_zeros_are_counted_one_by_one(share, segment_rows, weighted, check_statistics):
    values = torch.randn(1000, 300).masked_fill(torch.rand(1000, 300) < share, 0)
    weight = torch.rand(1000) if weighted else None
    scaled = values if weight is None else values * weight[:, None]
    moments = mk.column_moments(values, row_weight=weight, segment_rows=segment_rows)
    check_statistics(moments, scaled, segment_rows)


def test_row_weights_give_the_row_normalised_norm(backend):
    hidden = torch.randn(2, 50, 21)
    weight = 1 / hidden.norm(dim=-1)
    moments = mk.column_moments(hidden, row_weight=weight, segment_rows=50, backend=backend)
    unit = hidden.double() / hidden.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(moments.l2_norm, unit.norm(dim=1), rtol=1e-6, atol=0)


def test_row_normalised_is_a_weight(backend):
    hidden = torch.randn(2, 50, 21)
    hidden[1, 3] = 0
    weight = 1 / hidden.norm(dim=-1).clamp(min=1e-12)
    how = dict(segment_rows=50, backend=backend)
    found = mk.column_moments(hidden, row_normalised=True, **how)
    expected = mk.column_moments(hidden, row_weight=weight, **how)
    torch.testing.assert_close(found.l2_norm, expected.l2_norm, rtol=1e-6, atol=0)
    assert torch.equal(found.nonzero, expected.nonzero)
    assert found.nonzero[1].tolist() == [49] * 21


@pytest.mark.cpu_only("a GPU wants another layout")
def test_prepared_weights_are_the_weights_where_no_kernel_wants_another_layout():
    x, weight, bias = torch.randn(6, 8), torch.randn(10, 8), torch.randn(10)
    prepared = mk.prepare(weight, bias)
    assert prepared.interleaved is None
    assert torch.equal(mk.geglu_linear(x, prepared), mk.geglu_linear(x, weight, bias))
    weight += 1
    assert torch.equal(mk.geglu_linear(x, prepared), mk.geglu_linear(x, weight, bias))
    with pytest.raises(ValueError, match=r"weight: prepared weights are gated and hold"):
        mk.geglu_linear(x, prepared, bias)
    with pytest.raises(ValueError, match=r"weight: 9 features; a gated"):
        mk.prepare(weight[:9])


def test_prepared_weights_serve_what_they_were_made_of():
    weight, bias = torch.randn(10, 8), torch.randn(10)
    prepared = mk.prepare(weight, bias)
    assert prepared.serves(weight, bias)
    assert prepared.serves(torch.nn.Parameter(weight), bias)
    assert not prepared.serves(weight.clone(), bias)
    assert not prepared.serves(weight, None)
    weight += 1
    assert not prepared.serves(weight, bias)


@pytest.mark.cpu_only("a GPU has a table of shapes")
def test_a_cpu_fuses_every_gated_linear():
    assert mk.fuses(torch.randn(3, 8), torch.randn(10, 8))


def test_rows_may_be_strided(check_statistics):
    wide = torch.randn(60, 80)
    check_statistics(mk.column_moments(wide[:, ::2]), wide[:, ::2])
    assert torch.equal(mk.geglu(wide[:, 20:60]), mk.geglu(wide[:, 20:60].contiguous()))


def test_bits_repeat():
    x, weight = torch.randn(512, 40), torch.randn(260, 40)
    first = mk.geglu_linear(x, weight, moments=True)[1]
    second = mk.geglu_linear(x.clone(), weight.clone(), moments=True)[1]
    assert torch.equal(first.m2, second.m2)
    assert torch.equal(first.mean, second.mean)


class NoFloat64(TorchDispatchMode):
    """What MPS would do."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            raise TypeError("float64 on a device that has none")
        return made


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_a_device_without_float64(dtype, monkeypatch, check_geglu, check_statistics):
    projected = torch.randn(40, 12).to(dtype)
    monkeypatch.setattr(shapes, "NO_FLOAT64", ("cpu", "cuda"))
    with NoFloat64():
        hidden = reference.geglu(projected, "gelu", True, None)[0]
    check_geglu(hidden, projected, "gelu", True)
    assert not mk.BACKENDS["triton"].runs(torch.device("mps"), dtype)
    moments = mk.geglu(projected, moments=True, segment_rows=10, backend="reference")[1]
    assert moments.mean.device.type == "cpu"
    check_statistics(moments, hidden.cpu(), 10)


def test_errors_name_the_argument_and_the_choices():
    x = torch.randn(6, 8)
    with pytest.raises(ValueError, match=r"activation='gulu': choose from gelu, gelu_tanh"):
        mk.geglu(x, activation="gulu")
    with pytest.raises(ValueError, match=r"segment_rows=4: must be a positive divisor of 6 rows"):
        mk.geglu(x, moments=True, segment_rows=4)
    with pytest.raises(ValueError, match=r"backend='cuda' .* choose from reference, "):
        mk.geglu(x, backend="cuda")
    with pytest.raises(ValueError, match=r"projected: 7 features"):
        mk.geglu(x[:, :7])
    with pytest.raises(ValueError, match=r"projected: shape \(8,\)"):
        mk.geglu(x[0])
    with pytest.raises(TypeError, match=r"projected: dtype torch.int64"):
        mk.geglu(x.long())
    with pytest.raises(ValueError, match=r"weight: 9 channels, but x has 8"):
        mk.geglu_linear(x, torch.randn(4, 9))
    with pytest.raises(ValueError, match=r"bias: 3 features, but weight has 4"):
        mk.geglu_linear(x, torch.randn(4, 8), torch.randn(3))
    with pytest.raises(TypeError, match=r"weight: torch.float64, but x is torch.float32"):
        mk.geglu_linear(x, torch.randn(4, 8).double())
    with pytest.raises(ValueError, match=r"row_weight: shape \(5,\); expected \(6,\)"):
        mk.column_moments(x, row_weight=torch.ones(5))
    with pytest.raises(ValueError, match=r"row_weight: rows are either weighted or"):
        mk.column_moments(x, row_weight=torch.ones(6), row_normalised=True)
