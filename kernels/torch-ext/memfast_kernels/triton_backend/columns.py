"""Kernel: statistics of the columns of any activation, each row times its weight if it has one."""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import store_parts, tile_moments


@triton.jit
def columns(
    p_activation,  # [rows, neurons]
    p_weight,  # [rows], only where WEIGHTED
    p_mean,  # float64 [segments · pieces, neurons]
    p_m2,
    p_max_abs,
    p_nonzero,
    row_stride,
    segment_rows,
    pieces,
    neurons,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    part = tl.program_id(0)
    first = (part % pieces) * ROWS
    within = first + tl.arange(0, ROWS)
    column = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    rows = (part // pieces).to(tl.int64) * segment_rows + within
    inside = column < neurons
    valid = within < segment_rows
    mask = (valid[:, None] & inside[None, :]) if MASKED else inside[None, :]
    source = p_activation + rows[:, None] * row_stride + column[None, :]
    h = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    if WEIGHTED:
        h *= tl.load(p_weight + rows, mask=valid, other=0.0).to(tl.float32)[:, None]
    count = tl.minimum(segment_rows - first, ROWS).to(tl.float32)
    mean, m2, max_abs, nonzero = tile_moments(h, valid[:, None], count, 0, MASKED)
    offsets = part.to(tl.int64) * neurons + column
    store_parts(p_mean, p_m2, p_max_abs, p_nonzero, offsets, inside, mean, m2, max_abs, nonzero)
