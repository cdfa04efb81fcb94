"""Backend `cpu`: plain torch, row block by row block, so that everything stays in cache.

The projection of a block is consumed before the next one overwrites it: no [rows, 2·neurons]
buffer is faulted in, written out and read back, which is what makes eager torch slower.
"""

import torch
from torch import Tensor

from .activations import find
from .cpu_statistics import Block, Statistics, row_blocks
from .moments import Moments
from .shapes import inner_neurons, segments_of

PROJECTION_BYTES = 10 * 2**20
PROJECTION_ROWS = 512  # fewer, and reading the weights again costs more than the cache saves


class _Pass:
    """One walk over the rows: gates projected blocks into `hidden`, counting if asked to."""

    def __init__(self, hidden: Tensor, activation: str, gated: bool, segment_rows: int | None):
        rows, neurons = hidden.shape
        self.hidden, self.gated, self.segment_rows = hidden, gated, segment_rows
        self.activate = find(activation).forward
        self.blocks = row_blocks(rows, rows if segment_rows is None else segment_rows, neurons)
        self.statistics = None
        if segment_rows is not None:
            segments = segments_of(rows, segment_rows)
            self.statistics = Statistics(self.blocks, segments, neurons, hidden.dtype)

    def gate(self, block: Block, projected: Tensor) -> None:
        """Writes H of one block of projected rows."""
        hidden = self.hidden[block.start : block.stop]
        value, gate = projected.chunk(2, dim=-1) if self.gated else (None, projected)
        activated = self.activate(gate)
        if value is None:
            hidden.copy_(activated)
        else:
            torch.mul(value, activated, out=hidden)
        if self.statistics is not None:
            self.statistics.add(block, hidden, activated)

    def finish(self) -> tuple[Tensor, Moments | None]:
        if self.statistics is None or self.segment_rows is None:
            return self.hidden, None
        return self.hidden, self.statistics.finish(self.hidden, None, self.segment_rows)


def geglu(
    projected: Tensor, activation: str, gated: bool, segment_rows: int | None
) -> tuple[Tensor, Moments | None]:
    rows, width = projected.shape
    hidden = projected.new_empty(rows, inner_neurons("projected", width, gated))
    walk = _Pass(hidden, activation, gated, segment_rows)
    for block in walk.blocks:
        walk.gate(block, projected[block.start : block.stop])
    return walk.finish()


def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int | None,
) -> tuple[Tensor, Moments | None]:
    width = len(weight)
    hidden = x.new_empty(len(x), inner_neurons("weight", width, gated))
    walk = _Pass(hidden, activation, gated, segment_rows)
    rows = max(PROJECTION_ROWS, PROJECTION_BYTES // max(1, width * x.element_size()))
    buffer = x.new_empty(min(len(x), rows), width)
    for group in _groups(walk.blocks, len(buffer)):
        start = group[0].start
        projected = buffer[: group[-1].stop - start]
        _project(x[start : group[-1].stop], weight, bias, projected)
        for block in group:
            walk.gate(block, projected[block.start - start : block.stop - start])
    return walk.finish()


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def _groups(blocks: list[Block], rows: int) -> list[list[Block]]:
    """Consecutive blocks together, at most `rows` rows in a group."""
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and block.stop - groups[-1][0].start <= rows:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def column_moments(activation: Tensor, row_weight: Tensor | None, segment_rows: int) -> Moments:
    rows, neurons = activation.shape
    blocks = row_blocks(rows, segment_rows, neurons)
    segments = segments_of(rows, segment_rows)
    statistics = Statistics(blocks, segments, neurons, activation.dtype)
    for block in blocks:
        values = activation[block.start : block.stop].to(statistics.dtype)
        if row_weight is not None:
            values = values * row_weight[block.start : block.stop, None].to(statistics.dtype)
        statistics.add(block, values)
    return statistics.finish(activation, row_weight, segment_rows)
