"""Kernel: x·Wᵀ for value and gate at once, the gate and the statistics in the epilogue.

The operands are swapped: the accumulators are [neurons, rows] = W·xᵀ, so that a sum over rows
stays in a thread's registers.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import activate, cast, gate, matrix, store_parts, tile_moments


@triton.jit
def epilogue(
    value,  # float32 [NEURONS, ROWS]
    x,
    p_bias,
    p_hidden,
    p_mean,
    p_m2,
    p_max_abs,
    p_nonzero,
    part,
    pieces,
    first_column,
    segment_rows,
    neurons,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    EXACT: tl.constexpr,
    MOMENTS: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    """Bias, gate, store and statistics of one tile. EXACT rounds where eager torch rounds."""
    DTYPE: tl.constexpr = p_hidden.dtype.element_ty
    first = (part % pieces) * ROWS
    within = first + tl.arange(0, ROWS)
    column = first_column + tl.arange(0, NEURONS)
    inside = column < neurons
    valid = (within < segment_rows)[None, :]
    if BIAS:
        x += tl.load(p_bias + (neurons if GATED else 0) + column, mask=inside, other=0.0).to(
            tl.float32
        )[:, None]
        if GATED:
            value += tl.load(p_bias + column, mask=inside, other=0.0).to(tl.float32)[:, None]
    if EXACT:
        x = cast(x, DTYPE).to(tl.float32)
        if GATED:
            value = cast(value, DTYPE).to(tl.float32)
    if GATED:
        h = gate(value, x, ACTIVATION, EXACT, DTYPE)
    else:
        h = cast(activate(x, ACTIVATION, EXACT), DTYPE)
    rows = (part // pieces).to(tl.int64) * segment_rows + within
    target = p_hidden + rows[:, None] * neurons + column[None, :]
    mask = (tl.trans(valid) & inside[None, :]) if MASKED else inside[None, :]
    tl.store(target, tl.trans(h), mask=mask)
    if MOMENTS:
        count = tl.minimum(segment_rows - first, ROWS).to(tl.float32)
        mean, m2, max_abs, nonzero = tile_moments(h.to(tl.float32), valid, count, 1, MASKED)
        offsets = part.to(tl.int64) * neurons + column
        store_parts(p_mean, p_m2, p_max_abs, p_nonzero, offsets, inside, mean, m2, max_abs, nonzero)


@triton.jit
def dual_gemm(
    p_x,  # [rows, channels]
    p_weight,  # [2·neurons, channels], or [neurons, channels] where not GATED
    p_bias,  # [2·neurons], only where BIAS
    p_hidden,  # [rows, neurons]
    p_mean,  # float64 [segments · pieces, neurons]; these four only where MOMENTS
    p_m2,
    p_max_abs,
    p_nonzero,
    x_stride,
    weight_stride,
    segment_rows,
    pieces,
    neurons,
    channels,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    EXACT: tl.constexpr,
    MOMENTS: tl.constexpr,
    MASKED: tl.constexpr,
    EVEN_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    part = tl.program_id(1)
    first_column = tl.program_id(0) * NEURONS
    within = (part % pieces) * ROWS + tl.arange(0, ROWS)
    column = first_column + tl.arange(0, NEURONS)
    step = tl.arange(0, CHANNELS)
    rows = (part // pieces).to(tl.int64) * segment_rows + within
    valid = (within < segment_rows)[None, :]
    inside = (column < neurons)[:, None]
    source_x = p_x + rows[None, :] * x_stride + step[:, None]  # [CHANNELS, ROWS]
    source_value = p_weight + column[:, None].to(tl.int64) * weight_stride + step[None, :]
    source_gate = (
        source_value + tl.cast(neurons, tl.int64) * weight_stride if GATED else source_value
    )
    value = tl.zeros((NEURONS, ROWS), tl.float32)
    x = tl.zeros((NEURONS, ROWS), tl.float32)
    for k in range(0, channels, CHANNELS):
        if EVEN_CHANNELS:
            mask_w, mask_x = inside, valid
        else:
            left = step < channels - k
            mask_w, mask_x = inside & left[None, :], valid & left[:, None]
        b_x = matrix(tl.load(source_x, mask=mask_x, other=0.0))
        b_gate = matrix(tl.load(source_gate, mask=mask_w, other=0.0))
        x = tl.dot(b_gate, b_x, x, input_precision="ieee")
        if GATED:
            b_value = matrix(tl.load(source_value, mask=mask_w, other=0.0))
            value = tl.dot(b_value, b_x, value, input_precision="ieee")
        source_x += CHANNELS
        source_value += CHANNELS
        source_gate += CHANNELS
    epilogue(
        value, x, p_bias, p_hidden, p_mean, p_m2, p_max_abs, p_nonzero,
        part, pieces, first_column, segment_rows, neurons,
        ACTIVATION, GATED, BIAS, EXACT, MOMENTS, MASKED, ROWS, NEURONS,
    )  # fmt: skip
