"""Kernel: statistics of the columns of an activation whose rows are divided by their norm first.

A program holds NEURONS columns of the rows that it walks down, all of them where they fit; where
not, it reads the others for the norm alone, from the cache, as its neighbours read them too.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import nan_maximum, store_parts
from .walking import largest, place, widen


@triton.jit
def square_norms(source, row, row_stride, left, neurons, NEURONS: tl.constexpr):
    """‖row‖² of a chunk whose rows are wider than a program: [rows]."""
    squares = tl.sum(tl.zeros((row.shape[0], NEURONS), tl.float32), 1)
    for first in range(0, neurons, NEURONS):
        column = (first + tl.arange(0, NEURONS))[None, :]
        mask = (row < left) & (column < neurons)
        h = widen(tl.load(source + row * row_stride + column, mask=mask, other=0.0))
        squares += tl.sum(h * h, 1)
    return squares


@triton.jit
def normalised(
    p_activation,  # [rows, neurons]
    p_mean,  # [segments · pieces, neurons]
    p_m2,
    p_max_abs,
    p_nonzero,
    row_stride,
    segment_rows,
    pieces,
    chunks,
    neurons,
    WHOLE: tl.constexpr,  # whether NEURONS holds them all
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    part, column, start, rows = place(segment_rows, pieces, chunks, neurons, ROWS, NEURONS)
    inside = column < neurons
    row = tl.arange(0, ROWS)[:, None]
    source = p_activation + start * row_stride
    read = row * row_stride + column[None, :]
    base = tl.zeros((NEURONS,), tl.float32)  # the first chunk's mean: what `mean` is held less
    mean = tl.zeros((NEURONS,), tl.float32)
    m2 = tl.zeros((NEURONS,), tl.float32)
    top = tl.zeros((NEURONS,), tl.float32)
    some = tl.zeros((NEURONS,), tl.float32)
    seen = 0.0
    for chunk in range(tl.cdiv(rows, ROWS)):
        left = rows - chunk * ROWS
        valid = row < left
        h = widen(tl.load(source + read, mask=valid & inside[None, :], other=0.0))
        if WHOLE:
            squares = tl.sum(h * h, 1)
        else:
            squares = square_norms(source, row, row_stride, left, neurons, NEURONS)
        source += ROWS * row_stride
        h *= (1.0 / tl.maximum(tl.sqrt_rn(squares), 1e-12))[:, None]
        n = tl.minimum(left, ROWS).to(tl.float32)
        if chunk == 0:
            base = tl.sum(h, 0) * (1.0 / n)
        u = tl.where(valid, h - base[None, :], 0.0)
        local = tl.sum(u, 0) * (1.0 / n)
        d = tl.where(valid, u - local[None, :], 0.0)
        delta = local - mean
        weight = n / (seen + n)
        mean += delta * weight
        m2 += tl.sum(d * d, 0) + delta * delta * (seen * weight)
        seen += n
        top = nan_maximum(top, largest(h, 0))
        some += tl.sum((h != 0.0).to(tl.float32), 0)
    whole = base.to(tl.float64) + mean.to(tl.float64)
    at = part.to(tl.int64) * neurons + column
    store_parts(p_mean, p_m2, p_max_abs, p_nonzero, at, inside, whole, m2, top, some)
