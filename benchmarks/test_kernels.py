"""The kernels' backends side by side on whatever device is there, and what statistics cost.

`pytest --benchmark benchmarks/test_kernels.py`. Every contender must first agree with float64 as
well as eager torch does; a GPU is synchronised around every timing. Bars for the CPU backend, as a
share of the same code without statistics: 2 % of the operator with its linear, over the sixteen
feed-forwards of SD1.4, and 1 % of a whole forward of its UNet (random weights; this one needs
8 GB and minutes: MEMFAST_BENCHMARK_UNET=1). A public call may take 15 µs of host time more than
its backend. `-s` prints the figures; they are CPU time of this process, medians over pairs of
runs, so that a busy machine distorts them less.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median

import memfast_kernels as mk
import pytest
import torch
from memfast_kernels.backends import BACKENDS, PREFERRED
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.float32 if DEVICE.type == "cpu" else torch.bfloat16
# count, rows, channels of SD1.4's feed-forwards at 512 px with a guidance batch of two
LAYERS = [(5, 8192, 320), (5, 2048, 640), (5, 512, 1280), (1, 128, 1280)]
ROUNDS = int(os.environ.get("MEMFAST_BENCHMARK_ROUNDS", "7"))
OPERATOR_BAR, UNET_BAR, CALL_BAR = 0.02, 0.01, 15e-6


CALLS = 100  # one timing of what takes microseconds


def inputs(rows: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(channels, 8 * channels, device=DEVICE, dtype=DTYPE)
    x = torch.randn(rows, channels, device=DEVICE, dtype=DTYPE)
    return x, layer.weight.detach(), layer.bias.detach()


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    value, gate = linear(x, weight, bias).chunk(2, dim=-1)
    return value * gelu(gate)


def eager_with_hook(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a forward hook costs that takes the same four statistics."""
    hidden = eager(x, weight, bias)
    torch.var_mean(hidden.float(), 0)
    hidden.abs().amax(0)
    (hidden != 0).sum(0)
    return hidden


def unfused(backend: str, moments: bool) -> Callable[..., Tensor]:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found = mk.geglu(linear(x, weight, bias), moments=moments, backend=backend)
        return found[0] if isinstance(found, tuple) else found

    return run


def fused(backend: str, moments: bool, exact: bool = True) -> Callable[..., Tensor]:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        settings = dict(segment_rows=len(x) // 2) if moments else {}
        found = mk.geglu_linear(
            x, weight, bias, moments=moments, exact=exact, backend=backend, **settings
        )
        return found[0] if isinstance(found, tuple) else found

    return run


def contenders() -> dict[str, Callable[..., Tensor]]:
    """What can run here."""
    found: dict[str, Callable[..., Tensor]] = {"eager": eager, "eager + hook": eager_with_hook}
    for backend in mk.available(DEVICE, DTYPE):
        if backend != "reference":
            found[f"{backend} geglu"] = unfused(backend, False)
            found[f"{backend} geglu, moments"] = unfused(backend, True)
            found[f"{backend} geglu_linear"] = fused(backend, False)
            found[f"{backend} geglu_linear, moments"] = fused(backend, True)
    if DEVICE.type == "cuda":
        found["triton geglu_linear, polynomial"] = fused("triton", False, exact=False)
        found["torch.compile"] = torch.compile(eager)
        if find_spec("liger_kernel"):
            from liger_kernel.ops.geglu import LigerGELUMulFunction

            def liger(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                value, gate = linear(x, weight, bias).chunk(2, dim=-1)
                return LigerGELUMulFunction.apply(gate.contiguous(), value.contiguous())

            found["Liger (tanh)"] = liger
    return found


def synchronised(run: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    result = run(*arguments)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return result


@pytest.mark.parametrize("name", contenders())
@pytest.mark.parametrize(("rows", "channels"), [layer[1:] for layer in LAYERS])
def test_side_by_side(benchmark, name, rows, channels):
    run, arguments = contenders()[name], inputs(rows, channels)
    truth = eager(*(argument.double() for argument in arguments))
    allowed = 2 * (eager(*arguments).double() - truth).abs().max()
    if name.startswith("Liger"):
        allowed = allowed + 1e-3  # another function: tanh instead of erf
    assert (run(*arguments).double() - truth).abs().max() <= allowed
    benchmark.group = f"{rows} rows, {channels} channels, {DTYPE}, {DEVICE}"
    benchmark.pedantic(synchronised, (run, *arguments), rounds=ROUNDS, warmup_rounds=1)


def share(
    plain: Callable[[], object], counted: Callable[[], object], pairs: int
) -> tuple[float, float]:
    """Seconds without statistics and what they add: medians of pairs, taken in turns."""
    clock = time.process_time if DEVICE.type == "cpu" else time.perf_counter

    def seconds(run: Callable[[], object]) -> float:
        start = clock()
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    plain(), counted()
    base, added = [], []
    for pair in range(pairs):
        order = (plain, counted) if pair % 2 else (counted, plain)
        times = {run: seconds(run) for run in order}
        base.append(times[plain])
        added.append(times[counted] - times[plain])
    return median(base), median(added)


def test_what_statistics_cost_the_operator(benchmark):
    backend = "triton" if DEVICE.type == "cuda" else "cpu"
    base = added = 0.0
    for count, rows, channels in LAYERS:
        arguments = inputs(rows, channels)
        plain, counted = fused(backend, False), fused(backend, True)
        assert torch.equal(plain(*arguments), counted(*arguments))
        both = (partial(run, *arguments) for run in (plain, counted))
        seconds, more = share(*both, pairs=9 * ROUNDS)
        print(f"\n{rows} × {channels}: {1e3 * seconds:.1f} ms, statistics {more / seconds:+.1%}")
        base, added = base + count * seconds, added + count * more
    benchmark.extra_info["share"] = added / base
    print(f"all feed-forwards of SD1.4: {added / base:+.2%} (bar {OPERATOR_BAR:.0%})")
    arguments = inputs(*LAYERS[0][1:])
    benchmark.pedantic(synchronised, (fused(backend, True), *arguments), rounds=1)
    assert added / base <= OPERATOR_BAR


@pytest.mark.parametrize("name", ["geglu", "geglu_linear", "column_moments"])
@pytest.mark.parametrize("gradients", [False, True])
def test_what_a_call_costs_beyond_its_backend(benchmark, name, gradients):
    """Checks, dispatch and wrapping; gradients may be on, as long as nobody wants one."""
    x, weight, bias = inputs(8, 16)
    module = import_module(f"memfast_kernels.{BACKENDS[PREFERRED[DEVICE.type]].module}")
    public, backend = {
        "geglu": (
            lambda: mk.geglu(weight, moments=True, segment_rows=64),
            lambda: module.geglu(weight, "gelu", True, 64),
        ),
        "geglu_linear": (
            lambda: mk.geglu_linear(x, weight, bias, moments=True, segment_rows=4),
            lambda: module.geglu_linear(x, weight, bias, "gelu", True, True, 4),
        ),
        "column_moments": (
            lambda: mk.column_moments(x, segment_rows=4),
            lambda: module.column_moments(x, None, False, 4),
        ),
    }[name]

    def many(run: Callable[[], object]) -> None:
        for _ in range(CALLS):
            run()

    with torch.set_grad_enabled(gradients):
        found, expected = public(), backend()
        found, expected = (r if name == "column_moments" else r[1] for r in (found, expected))
        assert torch.equal(found.mean, expected.mean)
        times = {backend: [], public: []}
        for _ in range(20 * ROUNDS):  # the least of many: a busy machine only adds
            for run in times:
                start = time.process_time()
                many(run)
                times[run].append(time.process_time() - start)
        benchmark.pedantic(public, rounds=ROUNDS)
    seconds, added = min(times[backend]) / CALLS, (min(times[public]) - min(times[backend])) / CALLS
    benchmark.extra_info["added"] = added
    print(f"\n{name}: {1e6 * seconds:.1f} µs, the call adds {1e6 * added:.1f}")
    assert added <= CALL_BAR


class Counted(nn.Module):
    """In place of a feed-forward's first linear and gate: the same, with statistics or without."""

    def __init__(self, projection: nn.Linear):
        super().__init__()
        self.projection, self.moments = projection, False

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[-2] if self.moments else None
        found = mk.geglu_linear(
            x, self.projection.weight, self.projection.bias, moments=self.moments, segment_rows=rows
        )
        return found[0] if isinstance(found, tuple) else found


@pytest.mark.skipif(not os.environ.get("MEMFAST_BENCHMARK_UNET"), reason="MEMFAST_BENCHMARK_UNET=1")
def test_what_statistics_cost_the_unet(benchmark):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768).to(DEVICE, DTYPE)
    counters = []
    for module in unet.modules():
        if type(module).__name__ == "FeedForward":
            module.net[0] = Counted(module.net[0].proj)
            counters.append(module.net[0])
    sample = torch.randn(2, 4, 64, 64, device=DEVICE, dtype=DTYPE)
    text = torch.randn(2, 77, 768, device=DEVICE, dtype=DTYPE)

    @torch.no_grad()
    def forward(moments: bool) -> Tensor:
        for counter in counters:
            counter.moments = moments
        return unet(sample, 10, text).sample

    assert len(counters) == 16
    assert torch.equal(forward(False), forward(True))
    seconds, added = share(partial(forward, False), partial(forward, True), pairs=ROUNDS)
    benchmark.extra_info["share"] = added / seconds
    print(
        f"\nUNet forward: {seconds:.2f} s, statistics {added / seconds:+.2%} (bar {UNET_BAR:.0%})"
    )
    benchmark.pedantic(forward, (True,), rounds=1)
    assert added / seconds <= UNET_BAR
