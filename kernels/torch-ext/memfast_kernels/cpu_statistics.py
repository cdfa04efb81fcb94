"""Column statistics of row blocks that lie in cache, for the backend `cpu`.

m2 = l2² - n·mean² is used only where it loses less than two bits; columns with a larger mean are
taken again about that mean, and those with squares that overflow or underflow, with infinities or
NaN, in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .cpu_sums import Sums
from .moments import Moments
from .shapes import counts, segments_of

BLOCK_ELEMENTS = 96 * 1024  # in float32: block, gate and projection fill 1.5 MiB of the L2 cache
SHORT = 32  # rows of a segment below which float32 sums are not exact enough
EXACT_ELEMENTS = 4 * 2**20  # float64 statistics are taken so many elements at a time


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
    if segment_rows <= target:
        size = target // segment_rows * segment_rows
        bounds = [(start, min(start + size, rows)) for start in range(0, rows, size)]
        return [Block(a, b, a // segment_rows, (b - a) // segment_rows, 0) for a, b in bounds]
    size = -(-segment_rows // -(-segment_rows // target))
    return [
        Block(start + first, start + min(first + size, segment_rows), start // segment_rows, 1, i)
        for start in range(0, rows, segment_rows)
        for i, first in enumerate(range(0, segment_rows, size))
    ]


class Rows(NamedTuple):
    """What is counted: values [rows, neurons], each row times its weight if there are weights."""

    values: Tensor
    weight: Tensor | None
    dtype: torch.dtype

    def block(self, block: Block) -> Tensor:
        """A block's rows [segments, rows, neurons] in the dtype of the sums; maybe a view."""
        rows = slice(block.start, block.stop)
        values = self.values[rows].to(self.dtype)
        if self.weight is not None:
            values = values * self.weight[rows, None].to(self.dtype)
        return values.view(block.segments, -1, values.shape[1])


class Statistics:
    """Sums over the blocks of `row_blocks`: `add` every block once, in order, then `finish`."""

    def __init__(self, values: Tensor, row_weight: Tensor | None, segment_rows: int):
        rows, neurons = values.shape
        dtype = torch.float32 if segment_rows >= SHORT else torch.float64
        self.rows = Rows(values, row_weight, torch.promote_types(values.dtype, dtype))
        self.segment_rows = segment_rows
        self.blocks = row_blocks(rows, segment_rows, neurons)
        self.sums = Sums(int(segments_of(rows, segment_rows)), neurons, self.rows.dtype)

    def add(self, block: Block) -> None:
        """Counts the next block."""
        self.sums.add(self.rows.block(block), block.segment)

    def finish(self) -> Moments:
        """The moments of all blocks."""
        mean, m2, suspect = self.sums.finish(max(1, self.segment_rows))
        count = counts(len(self.rows.values), self.segment_rows, mean.device)
        moments = Moments(count, mean, m2, self.sums.peak.float(), self.sums.nonzero)
        if suspect and self.blocks:
            self._correct(moments)
        return moments

    def _correct(self, moments: Moments) -> None:
        peak = self.sums.peak
        finite = moments.m2.isfinite() & peak.isfinite()
        normal = finite & (peak.square() >= torch.finfo(peak.dtype).tiny) | (moments.nonzero == 0)
        far = normal & (moments.m2 < self.segment_rows * moments.mean.square() / 2)
        if far.any():
            self._recentre(moments, far.any(0).nonzero().flatten())
        if not normal.all():
            self._replace(moments, ~normal)

    def _recentre(self, moments: Moments, columns: Tensor) -> None:
        """Takes mean and m2 of the columns again, about the mean that is known already."""
        shift = moments.mean[:, columns].to(self.rows.dtype)
        parts = []
        for block in self.blocks:
            values = self.rows.block(block)
            if len(columns) < values.shape[2]:
                values = values.index_select(2, columns)
            values = values - shift[block.segment : block.segment + block.segments, None]
            parts.append((values.sum(1), values.square_().sum(1)))
        left, squares = (
            torch.cat(part).view(len(shift), -1, len(columns)).sum(1, dtype=torch.float64)
            for part in zip(*parts, strict=True)
        )
        left /= self.segment_rows
        moments.mean[:, columns] = shift.double() + left
        moments.m2[:, columns] = squares - self.segment_rows * left.square()

    def _replace(self, moments: Moments, where: Tensor) -> None:
        """Overwrites the columns where [segments, neurons] is True with float64 statistics."""
        step = max(1, EXACT_ELEMENTS // self.segment_rows)
        for segment in where.any(1).nonzero().flatten().tolist():
            rows = slice(segment * self.segment_rows, (segment + 1) * self.segment_rows)
            weight = None if self.rows.weight is None else self.rows.weight[rows]
            for columns in where[segment].nonzero().flatten().split(step):
                values = self.rows.values[rows].index_select(1, columns)
                exact = reference.column_moments(values, weight, self.segment_rows)
                moments.mean[segment, columns] = exact.mean[0]
                moments.m2[segment, columns] = exact.m2[0]
                moments.max_abs[segment, columns] = exact.max_abs[0]
                moments.nonzero[segment, columns] = exact.nonzero[0]
