"""What memfast costs on the GPU at hand, most important first; every timing behind a check.

    python benchmarks/gpu.py --minutes 6 --out gpu.json [--docs docs/gpu.md] [--only gate,unet]

Stands alone and can be resumed: a section that `--out` already holds for this card and these
versions is not run again, and none is started past the minutes. `--docs` writes the tables.
On a CPU (`--device cpu`) the shapes are tiny and the figures mean nothing but that it runs.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import memfast_kernels as mk
import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

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


@torch.no_grad()
def gate(bench: Bench) -> list[Row]:
    """The gate alone, with statistics, and the statistics of columns."""
    rows = []
    for name, images, tokens, channels in bench.layers:
        projected = linear(*bench.operands(images, tokens, channels))
        how = dict(moments=True, segment_rows=tokens)
        hidden, moments = mk.geglu(projected, **how)
        checked(hidden, moments, projected, gated(projected.double()))
        ways = {
            "gate": lambda p=projected: mk.geglu(p),
            "gate + moments": lambda p=projected, how=how: mk.geglu(p, **how),
            "columns": lambda h=hidden, t=tokens: mk.column_moments(h, segment_rows=t),
            "rows normalised": lambda h=hidden, t=tokens: mk.column_moments(
                h, row_normalised=True, segment_rows=t
            ),
        }
        row: Row = {"shape": name, **{way: bench.us(bench.graph(run)) for way, run in ways.items()}}
        row["moments cost"] = round(row["gate + moments"] / row["gate"], 2)
        row["gate TB/s"] = round(3 * hidden.nbytes / row["gate"] / 1e6, 2)
        rows.append(row)
    return rows


@torch.no_grad()
def feed_forward(bench: Bench) -> list[Row]:
    """The expanding half of a feed-forward: eager, by two kernels, and by one."""
    rows = []
    for name, images, tokens, channels in bench.layers:
        x, weight, bias = bench.operands(images, tokens, channels)
        prepared, how = mk.prepare(weight, bias), dict(moments=True, segment_rows=tokens)
        projected = linear(x, weight, bias)
        checked(*mk.geglu_linear(x, prepared, **how), projected, gated(projected.double()))
        ways = {
            "linear": lambda x=x, w=weight, b=bias: linear(x, w, b),
            "eager": lambda x=x, w=weight, b=bias: gated(linear(x, w, b)),
            "linear + gate + moments": lambda x=x, w=weight, b=bias, how=how: mk.geglu(
                linear(x, w, b), **how
            ),
            "one kernel": lambda x=x, p=prepared: mk.geglu_linear(x, p),
            "one kernel + moments": lambda x=x, p=prepared, how=how: mk.geglu_linear(x, p, **how),
            "the same, weights as they are": lambda x=x, w=weight, b=bias, how=how: mk.geglu_linear(
                x, w, b, **how
            ),
        }
        row: Row = {"shape": name, **{way: bench.us(bench.graph(run)) for way, run in ways.items()}}
        fastest = min(row["linear + gate + moments"], row["one kernel + moments"])
        row["over the linear"] = round(fastest / row["linear"], 2)
        row["host, one kernel + moments"] = bench.host_us(ways["one kernel + moments"])
        row["host, gate + moments"] = bench.host_us(lambda p=projected, h=how: mk.geglu(p, **h))
        rows.append(row)
    return rows


@torch.no_grad()
def collecting(bench: Bench) -> list[Row]:
    """`memfast.collect` on the built-in pipeline against its bare UNet: rows a second."""
    import memfast

    pipeline = memfast.load_pipeline("demo").to(bench.device)
    prompts = [f"a photo of object {i}" for i in range(256 if bench.cuda else 4)]
    sample = torch.randn(64 if bench.cuda else 4, *_sample_shape(pipeline), device=bench.device)
    text = pipeline.encode_prompt(prompts[: len(sample)], bench.device, 1, False)[0]
    bare = bench.us(lambda: pipeline.unet(sample, 10, text))
    run = dict(steps=2, num_inference_steps=10)
    first = memfast.collect(pipeline, prompts[:4], **run)
    again = memfast.collect(pipeline, prompts[:4], **run)
    site = first.sites[0]
    if not torch.equal(first[site].l2_norm, again[site].l2_norm):
        raise ArithmeticError("two runs of collect differ")
    start = time.perf_counter()
    memfast.collect(pipeline, prompts, **run)
    bench.wait()
    rate = 2 * 2 * len(prompts) / (time.perf_counter() - start)
    best = 1e6 * len(sample) / bare
    return [{"bare UNet rows/s": round(best), "collect rows/s": round(rate),
             "share": round(rate / best, 2)}]  # fmt: skip


def _sample_shape(pipeline) -> tuple[int, int, int]:
    size = pipeline.unet.config.sample_size
    return pipeline.unet.config.in_channels, size, size


SECTIONS = {"gate": gate, "feed_forward": feed_forward, "collecting": collecting}


def table(rows: list[Row]) -> str:
    """A markdown table."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    lines = [heads, ["---"] * len(heads), *([str(row.get(h, "")) for h in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(found: dict[str, Any]) -> str:
    """What `--docs` writes."""
    heading = f"# Measured: {found['card']}, {found['date']}, torch {found['torch']}\n"
    units = "Microseconds unless a column says otherwise; made by `benchmarks/gpu.py`.\n"
    parts = [heading, units]
    for name, rows in found["sections"].items():
        body = rows if isinstance(rows, str) else table(rows)
        parts.append(f"## {name.replace('_', ' ')}\n{SECTIONS[name].__doc__}\n\n{body}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--docs", type=Path, help="markdown file that takes the tables")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := [name for name in wanted if name not in SECTIONS]:
        parser.error(f"--only {','.join(unknown)}: choose from {', '.join(SECTIONS)}")
    bench, start = Bench(arguments.device), time.perf_counter()
    head = {"card": bench.card(), "torch": torch.__version__}
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    same = all(before.get(key) == value for key, value in head.items())
    done = {k: v for k, v in before.get("sections", {}).items() if same and not isinstance(v, str)}
    found = {**head, "date": date.today().isoformat(), "sections": done}
    for name in wanted:
        if name in found["sections"] or time.perf_counter() - start > 60 * arguments.minutes:
            continue
        try:
            found["sections"][name] = SECTIONS[name](bench)
        except (ArithmeticError, RuntimeError) as error:
            found["sections"][name] = f"failed: {type(error).__name__}: {error}"
        rows = found["sections"][name]
        print(f"{name}\n{rows if isinstance(rows, str) else table(rows)}\n", flush=True)
        partial = arguments.out.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1))
        os.replace(partial, arguments.out)
    if arguments.docs:
        arguments.docs.write_text(document(found))


if __name__ == "__main__":
    main()
