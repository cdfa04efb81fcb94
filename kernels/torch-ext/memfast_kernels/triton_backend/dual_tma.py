"""Kernel: `dual_gemm` with tensor memory access, persistent, for sm_90 and later.

Programs walk over tiles, neurons fastest, so that a block of rows stays in the L2 cache while all
weights pass. Rows beyond a segment's end are loaded (they belong to the next one) but not counted.
"""

# pyright: reportGeneralTypeIssues=false
import triton
import triton.language as tl

from .device import matrix
from .dual_gemm import epilogue


@triton.jit
def dual_tma(
    d_x,  # descriptor [rows, channels], blocks [ROWS, CHANNELS]
    d_weight,  # descriptor [2·neurons, channels], blocks [NEURONS, CHANNELS]
    p_bias,
    p_hidden,
    p_mean,
    p_m2,
    p_max_abs,
    p_nonzero,
    segment_rows,
    pieces,
    neurons,
    channels,
    parts,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    EXACT: tl.constexpr,
    MOMENTS: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    tiles_wide = tl.cdiv(neurons, NEURONS)
    for index in tl.range(tl.program_id(0), parts * tiles_wide, tl.num_programs(0)):
        part = index // tiles_wide
        first_column = (index % tiles_wide) * NEURONS
        first_row = (part // pieces) * segment_rows + (part % pieces) * ROWS
        value = tl.zeros((NEURONS, ROWS), tl.float32)
        x = tl.zeros((NEURONS, ROWS), tl.float32)
        for k in range(0, channels, CHANNELS):
            b_x = tl.trans(matrix(d_x.load([first_row, k])))
            if GATED:
                b_gate = matrix(d_weight.load([neurons + first_column, k]))
                b_value = matrix(d_weight.load([first_column, k]))
                value = tl.dot(b_value, b_x, value, input_precision="ieee")
            else:
                b_gate = matrix(d_weight.load([first_column, k]))
            x = tl.dot(b_gate, b_x, x, input_precision="ieee")
        epilogue(
            value, x, p_bias, p_hidden, p_mean, p_m2, p_max_abs, p_nonzero,
            part, pieces, first_column, segment_rows, neurons,
            ACTIVATION, GATED, BIAS, EXACT, MOMENTS, MASKED, ROWS, NEURONS,
        )  # fmt: skip
