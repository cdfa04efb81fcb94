"""Kernels alone."""

import subprocess
import sys
import time
from collections.abc import Iterator

import memfast_kernels as mk
import torch
from torch.nn.functional import linear

from on_gpu.bench import Bench, Row, checked, gated


@torch.no_grad()
def gate(bench: Bench) -> Iterator[Row]:
    """The gate alone, with statistics, and the statistics of columns."""
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
        yield row


@torch.no_grad()
def feed_forward(bench: Bench) -> Iterator[Row]:
    """The expanding half of a feed-forward: eager, by two kernels, and by one."""
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
        yield row


@torch.no_grad()
def host(bench: Bench) -> Iterator[Row]:
    """What the host does meanwhile: microseconds until a call returns, seconds of imports."""
    _, images, tokens, channels = TINY_ROWS
    x, weight, bias = bench.operands(images, tokens, channels)
    projected, prepared = linear(x, weight, bias), mk.prepare(weight, bias)
    how = dict(moments=True, segment_rows=tokens)
    hidden, moments = mk.geglu(projected, **how)
    checked(hidden, moments, projected, gated(projected.double()))
    calls = {
        "linear": lambda: linear(x, weight, bias),
        "eager gate": lambda: gated(projected),
        "gate": lambda: mk.geglu(projected),
        "gate + moments": lambda: mk.geglu(projected, **how),
        "one kernel + moments": lambda: mk.geglu_linear(x, prepared, **how),
        "columns": lambda: mk.column_moments(hidden, segment_rows=tokens),
        "merge": lambda: mk.merge(moments, moments),
    }
    for call in calls.values():
        call()
    yield {name: bench.host_us(call) for name, call in calls.items()}
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from memfast import audit, collect"], check=True)
    yield {"imports, s": round(time.perf_counter() - before, 1)}


TINY_ROWS = ("host", 2, 64, 320)
