"""Device functions: a program's walk down the rows of its neurons, and the sums it keeps.

A chunk is four tiles of rows, all of one shape and asked for together, whose sums are kept element
by element: a thread adds up its own rows, and nothing is exchanged before the walk's end, whatever
layout the compiler chooses. Sums are taken about a shift, the mean of the first rows that the same
thread saw: of m rows out of n it misses the mean of all by at most sqrt(n/m - 1) standard
deviations, whatever the data, which costs m2 a few bits at worst.
"""

# ruff: noqa: RET505 (what follows an `if` on a constexpr is compiled unless it is in the `else`)

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
import triton
import triton.language as tl

from .device import INTERPRETED, nan_maximum


@triton.jit
def place(segment_rows, pieces, chunks, neurons, ROWS: tl.constexpr, NEURONS: tl.constexpr):
    """Where a program walks: its part, its columns, its first row, and how many rows it has."""
    wide = tl.cdiv(neurons, NEURONS)
    part = tl.program_id(0) // wide
    column = (tl.program_id(0) % wide) * NEURONS + tl.arange(0, NEURONS)
    first = (part % pieces) * (chunks * ROWS)
    start = (part // pieces).to(tl.int64) * segment_rows + first
    return part, column, start, tl.minimum(segment_rows - first, chunks * ROWS)


@triton.jit
def slot_rows(rows, SLOTS: tl.constexpr):
    """Rows that each slot sees of a walk's, float32 [SLOTS, 1]."""
    slot = tl.arange(0, SLOTS)[:, None]
    return tl.maximum((rows - slot + SLOTS - 1) // SLOTS, 0).to(tl.float32)


@triton.jit
def four(
    source,
    read,
    apart,  # elements from one tile to the next
    row,
    left,  # rows that there are
    inside,
    SLOTS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The four tiles of a chunk, SLOTS rows each."""
    a = tl.load(source + read, mask=((row < left) & inside) if MASKED else inside, other=0.0)
    left -= SLOTS
    source += apart
    b = tl.load(source + read, mask=((row < left) & inside) if MASKED else inside, other=0.0)
    left -= SLOTS
    source += apart
    c = tl.load(source + read, mask=((row < left) & inside) if MASKED else inside, other=0.0)
    left -= SLOTS
    source += apart
    d = tl.load(source + read, mask=((row < left) & inside) if MASKED else inside, other=0.0)
    return a, b, c, d


@triton.jit
def widen(stored):
    """To float32. By its bits where that keeps the compiler from packing what stays unpacked."""
    if stored.dtype == tl.bfloat16:
        return (stored.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return stored.to(tl.float32)


@triton.jit
def in_threads(tile, SPREAD: tl.constexpr):
    """A tile [a, rows] of a matrix product as [a, SPREAD, …]: one thread holds the last axis.

    SPREAD threads share a line of the accumulator, two neighbours at a time.
    """
    a: tl.constexpr = tile.shape[0]
    each: tl.constexpr = tile.shape[1] // SPREAD
    tile = tl.permute(tl.reshape(tile, (a, each // 2, SPREAD, 2)), (0, 2, 1, 3))
    return tl.reshape(tile, (a, SPREAD, each))


@triton.jit
def halves(h):
    """Both halves of the last axis of [a, b, c], where it lies within a thread."""
    return tl.split(
        tl.permute(tl.reshape(h, (h.shape[0], h.shape[1], 2, h.shape[2] // 2)), (0, 1, 3, 2))
    )


@triton.jit
def sum_of_squares(u):
    """Over the last axis of [a, b, c], mostly by multiply-adds."""
    left, right = halves(u)
    a, b = halves(left)
    c, d = halves(right)
    return tl.sum(tl.fma(a, a, tl.fma(b, b, tl.fma(c, c, d * d))), 2)


@triton.jit
def largest(h, AXIS: tl.constexpr):
    """max |h| over AXIS; NaN shows."""
    if INTERPRETED:  # a custom reduction takes it seconds; magnitudes sort like their bits
        magnitude = h.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        return tl.max(magnitude, AXIS).to(tl.float32, bitcast=True)
    else:
        return tl.reduce(tl.abs(h), AXIS, nan_maximum)


@triton.jit
def apart_from(h, shift, valid, MASKED: tl.constexpr):
    """h - shift, zero where not valid."""
    u = h - shift
    if MASKED:
        u = tl.where(valid, u, 0.0)
    return u


@triton.jit
def some_of(h):
    """1.0 where not zero."""
    return (h != 0.0).to(tl.float32)


@triton.jit
def add_four(
    a,  # the tiles of a chunk, float32, zero where there is no row
    b,
    c,
    d,
    row,
    left,
    shift,
    total,
    squares,
    top,
    some,
    SLOTS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The sums with a chunk's rows, element by element: Σu, Σu², max |h|, nonzero, where
    u = h - shift. Four are added to each other first, which leaves a quarter of the roundings."""
    top = nan_maximum(nan_maximum(top, tl.abs(a)), tl.abs(b))
    top = nan_maximum(nan_maximum(top, tl.abs(c)), tl.abs(d))
    some += (some_of(a) + some_of(b)) + (some_of(c) + some_of(d))
    a = apart_from(a, shift, row < left, MASKED)
    b = apart_from(b, shift, row < left - SLOTS, MASKED)
    c = apart_from(c, shift, row < left - 2 * SLOTS, MASKED)
    d = apart_from(d, shift, row < left - 3 * SLOTS, MASKED)
    total += (a + b) + (c + d)
    squares += tl.fma(a, a, b * b) + tl.fma(c, c, d * d)
    return total, squares, top, some


@triton.jit
def add_rows(h, valid, shift, total, squares, top, some, MASKED: tl.constexpr):
    """The same with the rows that lie along the last axis of h, zero where not valid."""
    u = h - tl.expand_dims(shift, 2)
    if MASKED:
        u = tl.where(valid, u, 0.0)
    total += tl.sum(u, 2)
    squares += sum_of_squares(u)
    top = nan_maximum(top, largest(h, 2))
    some += tl.sum((h != 0.0).to(tl.float32), 2)
    return total, squares, top, some


@triton.jit
def join_sums(seen, shift, total, squares, top, some, AXIS: tl.constexpr):
    """Mean and m2 (float64), max_abs and nonzero (int32) of sums that lie along AXIS.

    seen: float32, the rows behind each sum.
    """
    if shift.shape[AXIS] == 1:  # nothing to join: fewer registers
        left = total / tl.maximum(seen, 1.0)
        mean = tl.sum(shift.to(tl.float64) + left.to(tl.float64), AXIS)
        return mean, tl.sum(squares - left * total, AXIS), tl.sum(top, AXIS), tl.sum(some, AXIS)
    else:
        n = seen.to(tl.float64)
        left = total.to(tl.float64) / tl.maximum(n, 1.0)
        mean = shift.to(tl.float64) + left
        whole = tl.sum(mean * n, AXIS) / tl.sum(n, AXIS)
        apart = mean - tl.expand_dims(whole, AXIS)
        m2 = squares.to(tl.float64) + n * (apart * apart - left * left)
        return whole, tl.sum(m2, AXIS), largest(top, AXIS), tl.sum(some, AXIS)
