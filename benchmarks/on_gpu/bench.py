"""The device, its shapes, how time is taken there, and the truth that kernels are held to."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import memfast_kernels as mk
import torch
from torch import Tensor
from torch.nn.functional import gelu

Row = dict[str, Any]
# name, images, tokens of an image, channels; four times as many neurons
LAYERS = [
    ("SD1 64², 16", 16, 4096, 320), ("SD1 32², 16", 16, 1024, 640), ("SD1 16², 16", 16, 256, 1280),
    ("SDXL 32², 16", 16, 1024, 1280), ("SD1 64², 2", 2, 4096, 320), ("SDXL 32², 2", 2, 1024, 1280),
]  # fmt: skip
TINY = [("tiny", 2, 24, 16)]


class Bench:
    """The device, its shapes, and how time is taken there."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.layers = LAYERS if self.cuda else TINY

    def card(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.cuda else "CPU"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def graph(self, run: Callable[[], object]) -> Callable[[], object]:
        """The run as a captured graph where there is one: the GPU's own time."""
        if not self.cuda:
            return run
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def us(self, run: Callable[[], object], budget: float = 0.25) -> float:
        """Median microseconds of a call, device included."""
        times, start = [], time.perf_counter()
        for _ in range(3):
            run()
        while len(times) < 5 or (time.perf_counter() - start < budget and len(times) < 200):
            self.wait()
            before = time.perf_counter()
            for _ in range(10):
                run()
            self.wait()
            times.append((time.perf_counter() - before) / 10)
        return round(1e6 * median(times), 1)

    def host_us(self, run: Callable[[], object]) -> float:
        """Median microseconds until a call returns, whatever the device still does."""
        times = []
        for _ in range(30):
            self.wait()
            before = time.perf_counter()
            run()
            times.append(time.perf_counter() - before)
        self.wait()
        return round(1e6 * median(times), 1)

    def ms(self, run: Callable[[], object], seconds: float = 0.6) -> float:
        """Median milliseconds of a long call among others, device included."""
        for _ in range(4):  # of which passes are captured
            run()
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < seconds:
            self.wait()
            before, calls = time.perf_counter(), 1 if times and times[0] > 0.05 else 4
            for _ in range(calls):
                run()
            self.wait()
            times.append((time.perf_counter() - before) / calls)
        return round(1e3 * median(times), 2)

    def operands(self, images: int, tokens: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        made = dict(device=self.device, dtype=self.dtype)
        weight = torch.randn(8 * channels, channels, **made) / channels**0.5
        return (
            torch.randn(images * tokens, channels, **made),
            weight,
            torch.randn(len(weight), **made),
        )


def gated(projected: Tensor) -> Tensor:
    value, gate = projected.chunk(2, -1)
    return value * gelu(gate)


def _ulp(hidden: Tensor, exact: Tensor) -> Tensor:
    return torch.finfo(hidden.dtype).eps * exact.abs().max()


def checked(hidden: Tensor, moments: mk.Moments, projected: Tensor, exact: Tensor) -> None:
    """H as good as eager's, statistics those of H: raises ArithmeticError."""
    allowed = 2 * (gated(projected).double() - exact).abs().max() + _ulp(hidden, exact) / 2
    values = hidden.double().unflatten(0, (len(moments.count), -1))
    mean = values.mean(1)
    m2 = (values - mean[:, None]).square().sum(1)
    right = {
        "H": (hidden.double() - exact).abs().max() <= allowed,
        "m2": ((moments.m2 - m2).abs() <= 1e-6 * m2).all(),
        "max_abs": torch.equal(moments.max_abs.double(), values.abs().amax(1)),
        "nonzero": torch.equal(moments.nonzero, (values != 0).sum(1)),
    }
    if wrong := [name for name, holds in right.items() if not holds]:
        raise ArithmeticError(f"not what float64 says: {', '.join(wrong)}")
