"""Kernel: projected rows to H = value · act(gate), with the statistics of the H that is stored."""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import activate, cast, gate, store_parts
from .walking import add_four, four, join_sums, place, slot_rows, widen


@triton.jit
def gated(value, x, DTYPE: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr):
    """H of a tile, as it is stored."""
    if GATED:
        h = gate(value.to(tl.float32), x.to(tl.float32), ACTIVATION, True, DTYPE)
    else:
        h = cast(activate(x.to(tl.float32), ACTIVATION, True), DTYPE)
    return h


@triton.jit
def pointwise(
    p_projected,  # [rows, 2·neurons], or [rows, neurons] where not GATED
    p_hidden,  # [rows, neurons]
    p_mean,  # [segments · pieces, neurons]; these four only where MOMENTS
    p_m2,
    p_max_abs,
    p_nonzero,
    row_stride,
    segment_rows,
    pieces,
    chunks,
    neurons,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    MOMENTS: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    SLOTS: tl.constexpr = ROWS // 4
    DTYPE: tl.constexpr = p_hidden.dtype.element_ty
    part, column, start, rows = place(segment_rows, pieces, chunks, neurons, ROWS, NEURONS)
    row = tl.arange(0, SLOTS)[:, None]
    inside = (column < neurons)[None, :]
    source = p_projected + start * row_stride
    target = p_hidden + start * neurons
    read = row * row_stride + column[None, :]
    write = row * neurons + column[None, :]
    apart = SLOTS * row_stride
    seen = slot_rows(rows, SLOTS)
    share = 1.0 / tl.minimum(tl.maximum(seen, 1.0), 4.0)
    shift = tl.zeros((SLOTS, NEURONS), tl.float32)
    total = tl.zeros((SLOTS, NEURONS), tl.float32)
    squares = tl.zeros((SLOTS, NEURONS), tl.float32)
    top = tl.zeros((SLOTS, NEURONS), tl.float32)
    some = tl.zeros((SLOTS, NEURONS), tl.float32)
    for chunk in range(tl.cdiv(rows, ROWS) if MASKED else chunks):
        left = rows - chunk * ROWS
        x0, x1, x2, x3 = four(
            source + (neurons if GATED else 0), read, apart, row, left, inside, SLOTS, MASKED
        )
        if GATED:
            v0, v1, v2, v3 = four(source, read, apart, row, left, inside, SLOTS, MASKED)
        else:
            v0, v1, v2, v3 = x0, x1, x2, x3
        in0, in1 = row < left, row < left - SLOTS
        in2, in3 = row < left - 2 * SLOTS, row < left - 3 * SLOTS
        h0 = gated(v0, x0, DTYPE, ACTIVATION, GATED)
        h1 = gated(v1, x1, DTYPE, ACTIVATION, GATED)
        h2 = gated(v2, x2, DTYPE, ACTIVATION, GATED)
        h3 = gated(v3, x3, DTYPE, ACTIVATION, GATED)
        to = target + write
        tl.store(to, h0, mask=(in0 & inside) if MASKED else inside)
        tl.store(to + SLOTS * neurons, h1, mask=(in1 & inside) if MASKED else inside)
        tl.store(to + 2 * SLOTS * neurons, h2, mask=(in2 & inside) if MASKED else inside)
        tl.store(to + 3 * SLOTS * neurons, h3, mask=(in3 & inside) if MASKED else inside)
        if MOMENTS:
            h0, h1, h2, h3 = widen(h0), widen(h1), widen(h2), widen(h3)
            if chunk == 0:
                shift = ((h0 + h1) + (h2 + h3)) * share
            total, squares, top, some = add_four(
                h0, h1, h2, h3, row, left, shift, total, squares, top, some, SLOTS, MASKED
            )
        source += ROWS * row_stride
        target += ROWS * neurons
    if MOMENTS:
        mean, m2, max_abs, nonzero = join_sums(seen, shift, total, squares, top, some, 0)
        at = part.to(tl.int64) * neurons + column
        store_parts(
            p_mean, p_m2, p_max_abs, p_nonzero, at, column < neurons, mean, m2, max_abs, nonzero
        )
