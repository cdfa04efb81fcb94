"""Kernel: projected rows to H = value · act(gate), with the statistics of the H that is stored."""

# pyright: reportArgumentType=false, reportCallIssue=false
import triton
import triton.language as tl

from .device import activate, cast, gate, store_parts
from .walking import add_rows, join_sums, place, slot_rows, widen


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
    DEEP: tl.constexpr,
    SLOTS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    ROWS: tl.constexpr = DEEP * SLOTS
    part, column, start, rows = place(segment_rows, pieces, chunks, neurons, ROWS, NEURONS)
    row = tl.arange(0, DEEP)[:, None, None] * SLOTS + tl.arange(0, SLOTS)[None, :, None]
    inside = (column < neurons)[None, None, :]
    source = p_projected + start * row_stride
    target = p_hidden + start * neurons
    read = row * row_stride + column[None, None, :]
    write = row * neurons + column[None, None, :]
    seen = slot_rows(rows, SLOTS)
    share = 1.0 / tl.minimum(tl.maximum(seen, 1.0), DEEP)
    shift = tl.zeros((SLOTS, NEURONS), tl.float32)
    total = tl.zeros((SLOTS, NEURONS), tl.float32)
    squares = tl.zeros((SLOTS, NEURONS), tl.float32)
    top = tl.zeros((SLOTS, NEURONS), tl.float32)
    some = tl.zeros((SLOTS, NEURONS), tl.float32)
    for chunk in range(tl.cdiv(rows, ROWS) if MASKED else chunks):
        valid = row < rows - chunk * ROWS
        mask = (valid & inside) if MASKED else inside
        if GATED:
            value = tl.load(source + read, mask=mask, other=0.0).to(tl.float32)
            x = tl.load(source + neurons + read, mask=mask, other=0.0).to(tl.float32)
            h = gate(value, x, ACTIVATION, True, p_hidden.dtype.element_ty)
        else:
            x = tl.load(source + read, mask=mask, other=0.0).to(tl.float32)
            h = cast(activate(x, ACTIVATION, True), p_hidden.dtype.element_ty)
        tl.store(target + write, h, mask=mask)
        if MOMENTS:
            h = widen(h)
            if chunk == 0:
                shift = tl.sum(h, 0) * share
            total, squares, top, some = add_rows(
                h, valid, shift, total, squares, top, some, 0, MASKED
            )
        source += ROWS * row_stride
        target += ROWS * neurons
    if MOMENTS:
        mean, m2, max_abs, nonzero = join_sums(seen, shift, total, squares, top, some, 0)
        at = part.to(tl.int64) * neurons + column
        store_parts(
            p_mean, p_m2, p_max_abs, p_nonzero, at, column < neurons, mean, m2, max_abs, nonzero
        )
