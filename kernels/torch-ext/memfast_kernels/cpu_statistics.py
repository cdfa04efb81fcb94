"""Column statistics of row blocks that lie in cache, for the backend `cpu`.

A block is read five times and written once (its square). The square serves three statistics: its
sum gives the L2 norm, the root of its maximum is max_abs exactly (in binary arithmetic the root of
a rounded square is the number itself), its minimum tells where there may be zeros to count.
Non-negative floats sort like their bits, and integers are compared twice as fast.

m2 = l2² - n·mean² is used only where it loses less than two bits; columns with a larger mean are
taken again about that mean, and those with squares that overflow or underflow, with infinities or
NaN, in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .moments import Moments
from .shapes import counts, segments_of

BLOCK_ELEMENTS = 160 * 1024  # in float32: a block and its square fill 1.25 MiB of the L2 cache
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
SHORT = 32  # rows of a segment below which float32 sums are not exact enough
SPARSE = 0.01  # up to this share of elements it is cheaper to gather them than to read all again
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

    def pick(self, row: Tensor, column: Tensor) -> Tensor:
        """The elements at the indices, two tensors of one shape."""
        flat = (row * self.values.shape[1]).add_(column).flatten()
        values = self.values.flatten().index_select(0, flat).view(row.shape).to(self.dtype)
        return values if self.weight is None else values * self.weight[row].to(self.dtype)


class Statistics:
    """Sums over the blocks of `row_blocks`: `add` every block once, in order, then `finish`."""

    def __init__(self, values: Tensor, row_weight: Tensor | None, segment_rows: int):
        rows, neurons = values.shape
        dtype = torch.float32 if segment_rows >= SHORT else torch.float64
        self.rows = Rows(values, row_weight, torch.promote_types(values.dtype, dtype))
        self.segment_rows = segment_rows
        self.blocks = row_blocks(rows, segment_rows, neurons)
        self.parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, block: Block, scratch: Tensor | None = None) -> None:
        """Counts the next block; may overwrite scratch, of the block's shape."""
        values = self.rows.block(block)
        if scratch is None or scratch.dtype != values.dtype:
            scratch = torch.empty_like(values)
        square = torch.square(values, out=scratch.view(values.shape))
        bits = square.view(BITS[values.dtype])
        self.parts.append((values.sum(1), square.sum(1), bits.amax(1), bits.amin(1)))

    def finish(self) -> Moments:
        """The moments of all blocks."""
        rows, neurons = self.rows.values.shape
        segments = segments_of(rows, self.segment_rows)
        if not self.parts:
            return Moments.empty(int(segments), neurons)
        sums, squared, highest, lowest = (
            torch.cat(parts).view(segments, -1, neurons) for parts in zip(*self.parts, strict=True)
        )
        mean = sums.sum(1, dtype=torch.float64) / self.segment_rows
        squares = squared.sum(1, dtype=torch.float64)
        m2 = squares - self.segment_rows * mean.square()
        peak = highest.amax(1).view(sums.dtype)
        suspect = lowest <= 0  # a negative one is a NaN with a sign
        nonzero = self.segment_rows - self._zeros(suspect)
        count = counts(rows, self.segment_rows, mean.device)
        moments = Moments(count, mean, m2, peak.sqrt().float(), nonzero)
        normal = squares.isfinite() & peak.isfinite() & (peak >= torch.finfo(peak.dtype).tiny)
        normal |= nonzero == 0
        far = normal & (m2 < squares / 3)
        if far.any():
            self._recentre(moments, far.any(0).nonzero().flatten())
        if not normal.all():
            self._replace(moments, ~normal)
        return moments

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

    def _zeros(self, suspect: Tensor) -> Tensor:
        """Zeros of every column, int64 [segments, neurons], looked for in the suspect parts."""
        segments, pieces, neurons = suspect.shape
        zeros = torch.zeros((segments, neurons), dtype=torch.int64)
        size = -(-self.segment_rows // pieces)
        if suspect.sum() * size <= SPARSE * self.rows.values.numel():
            segment, piece, column = suspect.nonzero(as_tuple=True)
            if len(column) == 0:
                return zeros
            within = piece[:, None] * size + torch.arange(size)
            row = segment[:, None] * self.segment_rows + within.clamp(max=self.segment_rows - 1)
            found = (self.rows.pick(row, column[:, None]) == 0) & (within < self.segment_rows)
            return zeros.index_put_((segment, column), found.sum(1), accumulate=True)
        for block in self.blocks:
            values = self.rows.block(block)
            nonzero = torch.empty_like(values).copy_(values).ne_(0).sum(1).long()
            zeros[block.segment : block.segment + block.segments] += values.shape[1] - nonzero
        return zeros

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
