"""Kernel: statistics of the columns of any activation, each row times its weight if it has one."""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import store_parts
from .walking import add_rows, join_sums, place, slot_rows, widen


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
    DEEP: tl.constexpr,
    SLOTS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    ROWS: tl.constexpr = DEEP * SLOTS
    part, column, start, rows = place(segment_rows, pieces, chunks, neurons, ROWS, NEURONS)
    row = tl.arange(0, DEEP)[:, None, None] * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    inside = (column < neurons)[None, None, :]
    source = p_activation + start * row_stride
    read = row * row_stride + column[None, None, :]
    seen = slot_rows(rows, SLOTS)
    share = 1.0 / tl.minimum(tl.maximum(seen, 1.0), DEEP)
    shift = tl.zeros((SLOTS, NEURONS), tl.float32)
    total = tl.zeros((SLOTS, NEURONS), tl.float32)
    squares = tl.zeros((SLOTS, NEURONS), tl.float32)
    top = tl.zeros((SLOTS, NEURONS), tl.float32)
    some = tl.zeros((SLOTS, NEURONS), tl.float32)
    for chunk in range(tl.cdiv(rows, ROWS) if MASKED else chunks):
        valid = row < rows - chunk * ROWS
        h = widen(tl.load(source + read, mask=(valid & inside) if MASKED else inside, other=0.0))
        if WEIGHTED:
            weight = tl.load(p_weight + start + chunk * ROWS + row, mask=valid, other=0.0)
            h *= weight.to(tl.float32)
        if chunk == 0:
            shift = tl.sum(h, 0) * share
        total, squares, top, some = add_rows(h, valid, shift, total, squares, top, some, 0, MASKED)
        source += ROWS * row_stride
    mean, m2, max_abs, nonzero = join_sums(seen, shift, total, squares, top, some, 0)
    at = part.to(tl.int64) * neurons + column
    store_parts(
        p_mean, p_m2, p_max_abs, p_nonzero, at, column < neurons, mean, m2, max_abs, nonzero
    )
