"""Kernel: statistics of the columns of any activation, each row times its weight if it has one."""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import store_parts
from .walking import add_four, four, join_sums, place, slot_rows, widen


@triton.jit
def columns(
    p_activation,  # [rows, neurons]
    p_weight,  # [rows], only where WEIGHTED
    p_mean,  # [segments · pieces, neurons]
    p_m2,
    p_max_abs,
    p_nonzero,
    row_stride,
    segment_rows,
    pieces,
    chunks,
    neurons,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    SLOTS: tl.constexpr = ROWS // 4
    part, column, start, rows = place(segment_rows, pieces, chunks, neurons, ROWS, NEURONS)
    row = tl.arange(0, SLOTS)[:, None]
    inside = (column < neurons)[None, :]
    source = p_activation + start * row_stride
    read = row * row_stride + column[None, :]
    seen = slot_rows(rows, SLOTS)
    share = 1.0 / tl.minimum(tl.maximum(seen, 1.0), 4.0)
    shift = tl.zeros((SLOTS, NEURONS), tl.float32)
    total = tl.zeros((SLOTS, NEURONS), tl.float32)
    squares = tl.zeros((SLOTS, NEURONS), tl.float32)
    top = tl.zeros((SLOTS, NEURONS), tl.float32)
    some = tl.zeros((SLOTS, NEURONS), tl.float32)
    for chunk in range(tl.cdiv(rows, ROWS) if MASKED else chunks):
        left = rows - chunk * ROWS
        a, b, c, d = four(source, read, SLOTS * row_stride, row, left, inside, SLOTS, MASKED)
        a, b, c, d = widen(a), widen(b), widen(c), widen(d)
        if WEIGHTED:
            weight = p_weight + start + chunk * ROWS
            e, f, g, h = four(weight, row, SLOTS, row, left, True, SLOTS, True)
            a *= e.to(tl.float32)
            b *= f.to(tl.float32)
            c *= g.to(tl.float32)
            d *= h.to(tl.float32)
        if chunk == 0:
            shift = ((a + b) + (c + d)) * share
        total, squares, top, some = add_four(
            a, b, c, d, row, left, shift, total, squares, top, some, SLOTS, MASKED
        )
        source += ROWS * row_stride
    mean, m2, max_abs, nonzero = join_sums(seen, shift, total, squares, top, some, 0)
    at = part.to(tl.int64) * neurons + column
    store_parts(
        p_mean, p_m2, p_max_abs, p_nonzero, at, column < neurons, mean, m2, max_abs, nonzero
    )
