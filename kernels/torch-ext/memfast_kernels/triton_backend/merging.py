"""Kernels: the parts of every segment into float64 moments, and two moments into one.

No atomics and a fixed order: the same parts give the same bits.
"""

import triton
import triton.language as tl

from .device import chan, nan_maximum


@triton.jit
def fold_parts(
    p_part_mean,  # float64 [segments, pieces, neurons]
    p_part_m2,  # float32
    p_part_max_abs,
    p_part_nonzero,  # int32
    p_mean,  # float64 [segments, neurons]
    p_m2,
    p_max_abs,  # float32
    p_nonzero,  # int64
    segment_rows,
    pieces,
    piece_rows,
    neurons,
    NEURONS: tl.constexpr,
):
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    inside = column < neurons
    n = tl.zeros((NEURONS,), tl.float64)
    mean = tl.zeros((NEURONS,), tl.float64)
    m2 = tl.zeros((NEURONS,), tl.float64)
    max_abs = tl.zeros((NEURONS,), tl.float32)
    nonzero = tl.zeros((NEURONS,), tl.int64)
    for piece in range(pieces):
        offsets = (segment * pieces + piece) * neurons + column
        count = tl.minimum(segment_rows - piece * piece_rows, piece_rows).to(tl.float64)
        part_mean = tl.load(p_part_mean + offsets, mask=inside, other=0.0)
        part_m2 = tl.load(p_part_m2 + offsets, mask=inside, other=0.0).to(tl.float64)
        n, mean, m2 = chan(n, mean, m2, count, part_mean, part_m2)
        max_abs = nan_maximum(max_abs, tl.load(p_part_max_abs + offsets, mask=inside, other=0.0))
        nonzero += tl.load(p_part_nonzero + offsets, mask=inside, other=0).to(tl.int64)
    offsets = segment * neurons + column
    tl.store(p_mean + offsets, mean, mask=inside)
    tl.store(p_m2 + offsets, m2, mask=inside)
    tl.store(p_max_abs + offsets, max_abs, mask=inside)
    tl.store(p_nonzero + offsets, nonzero, mask=inside)


@triton.jit
def merge_moments(
    p_count_a,  # int64 [segments]
    p_mean_a,  # float64 [segments, neurons]
    p_m2_a,
    p_max_abs_a,  # float32
    p_nonzero_a,  # int64
    p_count_b,
    p_mean_b,
    p_m2_b,
    p_max_abs_b,
    p_nonzero_b,
    p_mean,
    p_m2,
    p_max_abs,
    p_nonzero,
    neurons,
    NEURONS: tl.constexpr,
):
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    inside = column < neurons
    at = segment * neurons + column
    _, mean, m2 = chan(
        tl.load(p_count_a + segment).to(tl.float64),
        tl.load(p_mean_a + at, mask=inside, other=0.0),
        tl.load(p_m2_a + at, mask=inside, other=0.0),
        tl.load(p_count_b + segment).to(tl.float64),
        tl.load(p_mean_b + at, mask=inside, other=0.0),
        tl.load(p_m2_b + at, mask=inside, other=0.0),
    )
    max_a = tl.load(p_max_abs_a + at, mask=inside, other=0.0)
    max_b = tl.load(p_max_abs_b + at, mask=inside, other=0.0)
    nonzero_a = tl.load(p_nonzero_a + at, mask=inside, other=0)
    nonzero_b = tl.load(p_nonzero_b + at, mask=inside, other=0)
    tl.store(p_mean + at, mean, mask=inside)
    tl.store(p_m2 + at, m2, mask=inside)
    tl.store(p_max_abs + at, nan_maximum(max_a, max_b), mask=inside)
    tl.store(p_nonzero + at, nonzero_a + nonzero_b, mask=inside)
