"""Column statistics of row blocks that lie in cache, for the backend `cpu`.

Sums and sums of squares are float64, so that m2 = l2² - n·mean² is right to 1e-9 unless the mean is
some thousand deviations away from zero; such columns are taken again about their mean.
"""

from typing import NamedTuple

from torch import Tensor

from . import reference
from .cpu_sums import Sums, one_pass
from .moments import Moments
from .shapes import counts, segments_of

BLOCK_ELEMENTS = 192 * 1024  # of two threads each has 1.5 MiB in L2: block, gate, projection
BLOCK_ROWS = 16  # a block has a multiple of so many where it can: columns.c takes eight at once
HALVED_ROWS = 256  # of a segment, for which two threads share its rows
CANCELLED = 1e-6  # m2 is taken again where it is a smaller share of l2²


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
    target = BLOCK_ELEMENTS // neurons
    target = max(1, target if target < BLOCK_ROWS else target // BLOCK_ROWS * BLOCK_ROWS)
    if segment_rows <= target:
        size = target // segment_rows * segment_rows
        bounds = [(start, min(start + size, rows)) for start in range(0, rows, size)]
        return [Block(a, b, a // segment_rows, (b - a) // segment_rows, 0) for a, b in bounds]
    size = -(-segment_rows // -(-segment_rows // target))
    size = min(target, -(-size // BLOCK_ROWS) * BLOCK_ROWS)
    return [
        Block(start + first, start + min(first + size, segment_rows), start // segment_rows, 1, i)
        for start in range(0, rows, segment_rows)
        for i, first in enumerate(range(0, segment_rows, size))
    ]


class Statistics:
    """Sums over the blocks of `row_blocks`: `add` every block once, in order, then `finish`.

    values [rows, neurons], each row times its weight if there are weights.
    """

    def __init__(self, values: Tensor, row_weight: Tensor | None, segment_rows: int):
        self.values, self.weight, self.segment_rows = values, row_weight, segment_rows
        rows, neurons = values.shape
        self.blocks = row_blocks(rows, segment_rows, neurons)
        halved = segment_rows >= HALVED_ROWS
        self.sums = Sums(int(segments_of(rows, segment_rows)), neurons, halved)

    def add(self, block: Block) -> None:
        """Counts the next block."""
        rows = slice(block.start, block.stop)
        weight = None if self.weight is None else self.weight[rows]
        self.sums.add(self.values[rows].unflatten(0, (block.segments, -1)), block.segment, weight)

    def add_all(self) -> None:
        """Counts all rows: at once where one pass does, which walks over them row by row anyway."""
        rows, segments = len(self.values), self.sums.peak.shape[1]
        at_once = one_pass(self.values) and self.blocks
        for block in [Block(0, rows, 0, segments, 0)] if at_once else self.blocks:
            self.add(block)

    def finish(self) -> Moments:
        """The moments of all blocks."""
        *found, cancelled = self.sums.moments(self.segment_rows, CANCELLED)
        moments = Moments(counts(len(self.values), self.segment_rows, found[0].device), *found)
        if cancelled:
            extreme = moments.m2 < CANCELLED * moments.l2_norm.square()
            for segment in extreme.any(1).nonzero().flatten().tolist():
                self._recentre(segment, extreme[segment], moments)
        return moments

    def _recentre(self, segment: int, columns: Tensor, moments: Moments) -> None:
        """Overwrites the columns [neurons] that are True with what the reference finds."""
        rows = slice(segment * self.segment_rows, (segment + 1) * self.segment_rows)
        weight = None if self.weight is None else self.weight[rows]
        values = self.values[rows, columns]
        exact = reference.column_moments(values, weight, False, self.segment_rows)
        moments.mean[segment, columns], moments.m2[segment, columns] = exact.mean[0], exact.m2[0]
