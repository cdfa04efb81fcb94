"""Kernel: projected rows to H = value · act(gate), with the statistics of the H that is stored."""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import activate, cast, gate, store_parts, tile_moments


@triton.jit
def pointwise(
    p_projected,  # [rows, 2·neurons], or [rows, neurons] where not GATED
    p_hidden,  # [rows, neurons]
    p_mean,  # float64 [segments · pieces, neurons]; these four only where MOMENTS
    p_m2,
    p_max_abs,
    p_nonzero,
    row_stride,
    segment_rows,
    pieces,
    neurons,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    MOMENTS: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    part = tl.program_id(0)
    first = (part % pieces) * ROWS
    within = first + tl.arange(0, ROWS)
    columns = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    rows = (part // pieces).to(tl.int64) * segment_rows + within
    inside = columns < neurons
    valid = (within < segment_rows)[:, None]
    mask = (valid & inside[None, :]) if MASKED else inside[None, :]
    source = p_projected + rows[:, None] * row_stride + columns[None, :]
    if GATED:
        value = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(source + neurons, mask=mask, other=0.0).to(tl.float32)
        h = gate(value, x, ACTIVATION, True, p_hidden.dtype.element_ty)
    else:
        x = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        h = cast(activate(x, ACTIVATION, True), p_hidden.dtype.element_ty)
    tl.store(p_hidden + rows[:, None] * neurons + columns[None, :], h, mask=mask)
    if MOMENTS:
        count = tl.minimum(segment_rows - first, ROWS).to(tl.float32)
        mean, m2, max_abs, nonzero = tile_moments(h.to(tl.float32), valid, count, 0, MASKED)
        offsets = part.to(tl.int64) * neurons + columns
        store_parts(p_mean, p_m2, p_max_abs, p_nonzero, offsets, inside, mean, m2, max_abs, nonzero)
