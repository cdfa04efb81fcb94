"""Launches of the matrix products: the paired one over interleaved weights, and the dual one."""

# pyright: reportArgumentType=false, reportCallIssue=false
from functools import cache

import torch
from torch import Tensor
from triton import cdiv
from triton.tools.tensor_descriptor import TensorDescriptor

from ..activations import find
from ..moments import Moments
from ..shapes import inner_neurons
from .dual_gemm import dual_gemm
from .dual_tma import dual_tma
from .gated_gemm import gated_gemm
from .merging import fold_parts
from .placing import Pieces, architecture, buffers, cut, on_device, unfilled
from .tuning import products, tile

HALF = (torch.float16, torch.bfloat16)
FOLD_NEURONS = 128
PAIR, SPREAD = 8, 4  # how an NVIDIA accumulator lies in its threads: rows r and r + 8 together
DESCRIPTOR_WORK = 4e10  # operations: a shorter product waits for the host to make descriptors


def fold(pieces: Pieces, chunk_rows: int, parts: tuple[Tensor, ...], out: Moments | None) -> None:
    """The parts of every segment into `out`, in float64; nothing where a segment is one part."""
    if out is None or pieces.pieces == 1:
        return
    neurons = out.mean.shape[1]
    fold_parts[pieces.segments, cdiv(neurons, FOLD_NEURONS)](
        *parts, out.mean, out.m2, out.max_abs, out.nonzero,
        pieces.segment_rows, pieces.pieces, pieces.chunks * chunk_rows, neurons,
        NEURONS=FOLD_NEURONS, num_warps=4,
    )  # fmt: skip


def interleave(weight: Tensor) -> Tensor | None:
    """A gated weight [2·neurons, channels] for `gated_gemm`: PAIR rows of value, PAIR of gate, …

    The last pair is filled up with zeros. None where the device has no tile for that kernel.
    """
    if weight.dtype not in HALF or not products("gated_gemm", architecture(weight.device)):
        return None
    neurons, channels = inner_neurons("weight", len(weight), True), weight.shape[1]
    short = -neurons % PAIR
    halves = torch.nn.functional.pad(weight.view(2, neurons, channels), (0, 0, 0, short))
    return halves.unflatten(1, (-1, PAIR)).transpose(0, 1).reshape(-1, channels)


def fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int | None,
    interleaved: Tensor | None = None,
    tma: bool | None = None,
) -> tuple[Tensor, Moments | None]:
    """The product with its epilogue; tma=None takes descriptors where they run and pay."""
    find(activation)
    (rows, channels), neurons = x.shape, inner_neurons("weight", len(weight), gated)
    arch = architecture(x.device)
    paired = interleaved is not None
    source = weight if interleaved is None else interleaved
    if tma is None:
        long = not paired or 4 * rows * neurons * channels >= DESCRIPTOR_WORK
        tma = long and _tma_runs(arch, x, source)
    kernel = (
        ("gated_tma" if tma else "gated_gemm") if paired else "dual_tma" if tma else "dual_gemm"
    )
    chosen = tile(kernel, arch, rows)
    pieces = cut(rows, segment_rows, chosen.rows, walks=paired)
    out = None if segment_rows is None else unfilled(rows, pieces, neurons, x.device)
    hidden = x.new_empty(rows, neurons)
    if not rows or not neurons:
        return hidden, out
    parts = buffers(pieces, out, x)
    wide = cdiv(neurons, chosen.neurons)
    settings = dict(
        ACTIVATION=activation, BIAS=bias is not None, EXACT=exact,
        MOMENTS=out is not None, MASKED=pieces.masked,
        ROWS=chosen.rows, NEURONS=chosen.neurons, CHANNELS=chosen.channels,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    even = channels % chosen.channels == 0
    tensors = (source if bias is None else bias.contiguous(), hidden, *parts)
    features = chosen.neurons * (2 if paired else 1)
    operands = (
        TensorDescriptor.from_tensor(x, [chosen.rows, chosen.channels]),
        TensorDescriptor.from_tensor(source, [features, chosen.channels]),
    ) if tma else (x, source)  # fmt: skip
    with on_device(x):
        if paired:
            gated_gemm[(pieces.parts * wide,)](
                *operands, *tensors, x.stride(0), source.stride(0),
                pieces.segment_rows, pieces.pieces, pieces.chunks, neurons, channels,
                TMA=tma, EVEN_CHANNELS=even, PAIR=PAIR, SPREAD=SPREAD, **settings,
            )  # fmt: skip
        elif tma:
            programs = min(pieces.parts * wide, _processors(x.device))
            dual_tma[(programs,)](
                *operands, *tensors,
                pieces.segment_rows, pieces.pieces, neurons, channels, pieces.parts,
                GATED=gated, **settings,
            )  # fmt: skip
        else:
            dual_gemm[wide, pieces.parts](
                *operands, *tensors, x.stride(0), source.stride(0),
                pieces.segment_rows, pieces.pieces, neurons, channels,
                GATED=gated, EVEN_CHANNELS=even, **settings,
            )  # fmt: skip
        fold(pieces, chosen.rows, parts, out)
    return hidden, out


def _tma_runs(arch: str, x: Tensor, weight: Tensor) -> bool:
    """Tensor memory access wants sm_90 or later and 16-byte aligned rows."""
    if not arch.startswith(("sm_90", "sm_100", "sm_103")):
        return False
    return all(
        tensor.data_ptr() % 16 == 0 and tensor.stride(0) * tensor.element_size() % 16 == 0
        for tensor in (x, weight)
    )


@cache
def _processors(device: torch.device) -> int:
    if device.type == "cpu":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count
