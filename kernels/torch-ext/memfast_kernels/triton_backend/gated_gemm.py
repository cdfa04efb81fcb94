"""Kernel: H = value · act(gate) straight from x·Wᵀ, as one matrix product, with its statistics.

The rows of W are interleaved: PAIR of value, the PAIR of gate that belong to them, and so on (see
`weights.py`). The operands are swapped, so that the accumulator is [features, rows] = W·xᵀ. Both
together put a neuron's value, its gate and many of its rows into one thread: the epilogue pairs
and counts without an exchange. A program walks down the rows of its neurons.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
import triton
import triton.language as tl

from .device import cast, gate, matrix, store_parts
from .walking import add_rows, halves, in_threads, join_sums, place, widen


@triton.jit
def product(
    x,
    weight,
    row,
    feature,
    valid,
    inside,
    x_stride,
    weight_stride,
    channels,
    TMA: tl.constexpr,
    EVEN_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """W·xᵀ of a tile, float32 [FEATURES, ROWS]."""
    total = tl.zeros((FEATURES, ROWS), tl.float32)
    if TMA:
        for k in range(0, channels, CHANNELS):
            b_x = tl.trans(matrix(x.load([row.to(tl.int32), k])))
            total = tl.dot(matrix(weight.load([feature, k])), b_x, total, input_precision="ieee")
    else:
        step = tl.arange(0, CHANNELS)
        x += row * x_stride
        weight += feature.to(tl.int64) * weight_stride
        read_x = tl.arange(0, ROWS)[None, :] * x_stride + step[:, None]
        read_weight = tl.arange(0, FEATURES)[:, None] * weight_stride + step[None, :]
        for k in range(0, channels, CHANNELS):
            mask_x, mask_weight = valid, inside
            if not EVEN_CHANNELS:
                left = step < channels - k
                mask_x, mask_weight = valid & left[:, None], inside & left[None, :]
            b_x = matrix(tl.load(x + k + read_x, mask=mask_x, other=0.0))
            b_weight = matrix(tl.load(weight + k + read_weight, mask=mask_weight, other=0.0))
            total = tl.dot(b_weight, b_x, total, input_precision="ieee")
    return total


@triton.jit
def gated_gemm(
    x,  # [rows, channels]: a pointer, or where TMA a descriptor
    weight,  # [2·neurons (whole pairs), channels], interleaved; likewise
    p_bias,  # [2·neurons], value first; only where BIAS
    p_hidden,  # [rows, neurons]
    p_mean,  # [segments · pieces, neurons]; these four only where MOMENTS
    p_m2,
    p_max_abs,
    p_nonzero,
    x_stride,
    weight_stride,
    segment_rows,
    pieces,
    chunks,
    neurons,
    channels,
    ACTIVATION: tl.constexpr,
    BIAS: tl.constexpr,
    EXACT: tl.constexpr,
    MOMENTS: tl.constexpr,
    MASKED: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PAIR: tl.constexpr,
    SPREAD: tl.constexpr,
):
    DTYPE: tl.constexpr = p_hidden.dtype.element_ty
    part, column, start, rows = place(segment_rows, pieces, chunks, neurons, ROWS, NEURONS)
    inside = column < neurons
    feature = (tl.program_id(0) % tl.cdiv(neurons, NEURONS)) * (2 * NEURONS)
    features = tl.cdiv(neurons, PAIR) * (2 * PAIR)
    inside_weight = (feature + tl.arange(0, 2 * NEURONS) < features)[:, None]
    seen = tl.zeros((1, SPREAD), tl.float32)
    shift = tl.zeros((NEURONS, SPREAD), tl.float32)
    total = tl.zeros((NEURONS, SPREAD), tl.float32)
    squares = tl.zeros((NEURONS, SPREAD), tl.float32)
    top = tl.zeros((NEURONS, SPREAD), tl.float32)
    some = tl.zeros((NEURONS, SPREAD), tl.float32)
    for chunk in range(tl.cdiv(rows, ROWS) if MASKED else chunks):
        row = start + chunk * ROWS
        valid = (tl.arange(0, ROWS) < rows - chunk * ROWS)[None, :]
        both = product(
            x, weight, row, feature, valid, inside_weight, x_stride, weight_stride, channels,
            TMA, EVEN_CHANNELS, ROWS, 2 * NEURONS, CHANNELS,
        )  # fmt: skip
        pairs = tl.permute(tl.reshape(both, (NEURONS // PAIR, 2, PAIR, ROWS)), (0, 2, 3, 1))
        value, z = tl.split(pairs)
        value = tl.reshape(value, (NEURONS, ROWS))
        z = tl.reshape(z, (NEURONS, ROWS))
        if BIAS:
            bias = tl.load(p_bias + column, mask=inside, other=0.0)
            value += bias[:, None].to(tl.float32)
            bias = tl.load(p_bias + neurons + column, mask=inside, other=0.0)
            z += bias[:, None].to(tl.float32)
        if EXACT:
            value = cast(value, DTYPE).to(tl.float32)
            z = cast(z, DTYPE).to(tl.float32)
        h = gate(value, z, ACTIVATION, EXACT, DTYPE)
        write = tl.arange(0, ROWS)[:, None] * neurons + column[None, :]
        mask = (tl.trans(valid) & inside[None, :]) if MASKED else inside[None, :]
        tl.store(p_hidden + row * neurons + write, tl.trans(h), mask=mask)
        if MOMENTS:
            h = widen(h)
            if MASKED:
                h = tl.where(valid, h, 0.0)
            h = in_threads(h, SPREAD)
            counted = in_threads(valid, SPREAD)
            if MASKED:
                n = tl.sum(counted.to(tl.float32), 2)
            else:
                n = tl.full((1, SPREAD), ROWS // SPREAD, tl.float32)
            seen += n
            if chunk == 0:
                few, _ = halves(h)
                shift = tl.sum(few, 2) / tl.maximum(tl.minimum(n, few.shape[2]), 1.0)
            total, squares, top, some = add_rows(
                h, counted, shift, total, squares, top, some, MASKED
            )
    if MOMENTS:
        mean, m2, max_abs, nonzero = join_sums(seen, shift, total, squares, top, some, 1)
        at = part.to(tl.int64) * neurons + column
        store_parts(p_mean, p_m2, p_max_abs, p_nonzero, at, inside, mean, m2, max_abs, nonzero)
