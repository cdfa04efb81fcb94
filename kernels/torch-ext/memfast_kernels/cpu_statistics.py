"""Column statistics of row blocks that lie in cache, for the backend `cpu`.

A block is read five times and written once (its square). The square serves three statistics: its
sum gives the L2 norm, the root of its maximum is max_abs exactly (in binary arithmetic the root of
a rounded square is the number itself), its minimum tells whether there are zeros to count.
Non-negative floats sort like their bits, and integers are compared twice as fast.

m2 = l2² − n·mean² is used only where it loses at most one bit; every other column (a large mean,
squares that overflow or underflow, infinities, NaN) is taken again in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .moments import Moments
from .shapes import counts

BLOCK_ELEMENTS = 96 * 1024  # in float32: the block, its square and its projection fill 1.5 MiB
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
EXACT_ELEMENTS = 4 * 2**20


class Block(NamedTuple):
    """Rows start to stop: all of `segments` segments, or one piece of a single segment."""

    start: int
    stop: int
    segment: int
    segments: int
    piece: int


def row_blocks(rows: int, segment_rows: int, neurons: int) -> list[Block]:
    """Cuts the rows into blocks of about BLOCK_ELEMENTS that respect the segments' borders."""
    if rows == 0 or neurons == 0:
        return []
    target = max(1, BLOCK_ELEMENTS // neurons)
    if segment_rows < target:
        size = target // segment_rows * segment_rows
        bounds = [(start, min(start + size, rows)) for start in range(0, rows, size)]
        return [Block(a, b, a // segment_rows, (b - a) // segment_rows, 0) for a, b in bounds]
    pieces = -(-segment_rows // target)
    size = -(-segment_rows // pieces)
    return [
        Block(start + first, start + min(first + size, segment_rows), start // segment_rows, 1, i)
        for start in range(0, rows, segment_rows)
        for i, first in enumerate(range(0, segment_rows, size))
    ]


class Statistics:
    """Sums over the blocks of `row_blocks`; `add` every block once, then `finish`."""

    def __init__(self, blocks: list[Block], segments: int, neurons: int, dtype: torch.dtype):
        self.dtype = torch.promote_types(dtype, torch.float32)
        pieces = 1 + max((block.piece for block in blocks), default=0)
        shape = (segments, pieces, neurons)
        self.sums = torch.zeros(shape, dtype=self.dtype)
        self.squares = torch.zeros(shape, dtype=self.dtype)
        self.peaks = torch.zeros(shape, dtype=BITS[self.dtype])
        self.zeros = torch.zeros((segments, neurons), dtype=torch.int64)
        tiny = torch.tensor(torch.finfo(self.dtype).tiny, dtype=self.dtype)
        self.tiny_bits = int(tiny.view(BITS[self.dtype]))

    def add(self, block: Block, values: Tensor, scratch: Tensor | None = None) -> None:
        """Counts values [rows, neurons] of the block; may overwrite scratch, of the same shape."""
        shape = block.segments, -1, values.shape[-1]
        values = values.to(self.dtype).view(shape)
        if scratch is None or scratch.dtype != self.dtype:
            scratch = torch.empty_like(values)
        scratch = scratch.view(shape)
        at = slice(block.segment, block.segment + block.segments), block.piece
        torch.sum(values, 1, out=self.sums[at])
        torch.square(values, out=scratch)
        torch.sum(scratch, 1, out=self.squares[at])
        bits = scratch.view(BITS[self.dtype])
        torch.amax(bits, 1, out=self.peaks[at])
        if bits.amin().item() < self.tiny_bits:  # a zero, an underflow, or a NaN with a sign
            nonzero = scratch.copy_(values).ne_(0).sum(1, dtype=torch.float64)
            self.zeros[at[0]] += values.shape[1] - nonzero.long()

    def finish(self, values: Tensor, row_weight: Tensor | None, segment_rows: int) -> Moments:
        """The moments of all blocks of values [rows, neurons]."""
        rows, neurons = values.shape
        count = counts(rows, segment_rows, values.device)
        if rows == 0 or neurons == 0:
            return Moments.empty(len(count), neurons)
        mean = self.sums.sum(1, dtype=torch.float64) / segment_rows
        squares = self.squares.sum(1, dtype=torch.float64)
        peak = self.peaks.amax(1).view(self.dtype)
        m2 = squares - segment_rows * mean.square()
        moments = Moments(count, mean, m2, peak.sqrt().float(), segment_rows - self.zeros)
        sound = (m2 >= squares / 2) & squares.isfinite() & peak.isfinite()
        sound &= peak >= torch.finfo(self.dtype).tiny
        sound |= moments.nonzero == 0
        if not sound.all():
            _replace(moments, ~sound, values, row_weight, segment_rows)
        return moments


def _replace(
    moments: Moments, where: Tensor, values: Tensor, row_weight: Tensor | None, segment_rows: int
) -> None:
    """Overwrites the columns where [segments, neurons] is True with float64 statistics."""
    step = max(1, EXACT_ELEMENTS // segment_rows)
    for segment in where.any(1).nonzero().flatten().tolist():
        rows = slice(segment * segment_rows, (segment + 1) * segment_rows)
        weight = None if row_weight is None else row_weight[rows]
        for columns in where[segment].nonzero().flatten().split(step):
            exact = reference.column_moments(values[rows][:, columns], weight, segment_rows)
            moments.mean[segment, columns] = exact.mean[0]
            moments.m2[segment, columns] = exact.m2[0]
            moments.max_abs[segment, columns] = exact.max_abs[0]
            moments.nonzero[segment, columns] = exact.nonzero[0]
