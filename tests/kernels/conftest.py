"""What a backend is held to: statistics of the H it stored, an error at most twice eager's own.

`pytest tests/kernels --device cuda` runs these tests on a GPU: their tensors are made there.
"""

import os
from collections.abc import Callable, Iterator

import memfast_kernels as mk
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

Check = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu_only(reason): skipped with --device cuda")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of the run; factories make their tensors on it unless told otherwise."""
    chosen = torch.device(request.config.getoption("--device") or "cpu")
    if chosen.type != "cpu" and request.node.get_closest_marker("cpu_only"):
        pytest.skip(request.node.get_closest_marker("cpu_only").args[0])
    with chosen:
        yield chosen


@pytest.fixture(params=["reference", "cpu", "triton"])
def backend(request: pytest.FixtureRequest, device: torch.device) -> str:
    """Every backend that can run on the device."""
    if request.param not in mk.available(device):
        pytest.skip(f"{request.param} does not run on {device}")
    return request.param


def statistics_of(moments: mk.Moments, hidden: Tensor, segment_rows: int | None = None) -> None:
    """Exact counts and maxima; m2 to 1e-6 of itself and the mean to 1e-6 of the column's RMS."""
    values = hidden.detach().double().flatten(0, -2)
    size = len(values) if segment_rows is None else segment_rows
    segments = len(values) // size if size else 1
    values = values.view(segments, size, values.shape[1])
    assert moments.count.tolist() == [size] * segments
    assert moments.count.dtype == moments.nonzero.dtype == torch.int64
    assert moments.mean.dtype == moments.m2.dtype == torch.float64
    assert torch.equal(moments.nonzero, (values != 0).sum(1))
    if size == 0:
        for field in (moments.mean, moments.m2, moments.max_abs):
            assert not field.any()
        return
    expected = values.abs().amax(1).float()
    torch.testing.assert_close(moments.max_abs, expected, rtol=0, atol=0, equal_nan=True)
    mean = values.mean(1)
    m2 = (values - mean[:, None]).square().sum(1)
    finite = m2.isfinite()
    assert torch.equal(moments.m2.isfinite(), finite)
    assert torch.equal(moments.mean.isfinite(), finite)
    rms = values.square().mean(1).sqrt()
    assert ((moments.mean - mean).abs() <= 1e-6 * rms)[finite].all()
    assert ((moments.m2 - m2).abs() <= 1e-6 * m2)[finite].all()


def as_good_as_eager(found: Tensor, eager: Tensor, truth: Tensor) -> None:
    """The largest error to float64 is at most twice eager's (plus one rounding of the largest)."""
    assert found.shape == eager.shape
    assert found.dtype == eager.dtype
    if not found.numel():
        return
    ulp = torch.finfo(found.dtype).eps * truth.abs().max()
    allowed = 2 * (eager.double() - truth).abs().max() + ulp / 2
    assert (found.double() - truth).abs().max() <= allowed


def eager_geglu(projected: Tensor, activation: str = "gelu", gated: bool = True) -> Tensor:
    """What diffusers computes."""
    forward = mk.ACTIVATIONS[activation].forward
    if not gated:
        return forward(projected)
    value, gate = projected.chunk(2, dim=-1)
    return value * forward(gate)


def eager_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *args) -> Tensor:
    return eager_geglu(linear(x, weight, bias), *args)


def widened(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.double() for tensor in tensors)


@pytest.fixture
def check_statistics() -> Check:
    return statistics_of


@pytest.fixture
def check_geglu() -> Check:
    """geglu(projected, activation, gated) against eager torch and float64."""

    def check(found: Tensor, projected: Tensor, activation: str, gated: bool) -> None:
        truth = eager_geglu(projected.double(), activation, gated)
        as_good_as_eager(found, eager_geglu(projected, activation, gated), truth)

    return check


@pytest.fixture
def check_linear() -> Check:
    """geglu_linear(x, weight, bias, …) against eager torch and float64."""

    def check(found: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *args) -> None:
        truth = eager_linear(*widened(x, weight, bias), *args)
        as_good_as_eager(found, eager_linear(x, weight, bias, *args), truth)

    return check


@pytest.fixture
def eager() -> Callable[..., Tensor]:
    return eager_geglu
