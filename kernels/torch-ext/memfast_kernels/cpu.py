"""Backend `cpu`: plain torch, row block by row block, so that everything stays in cache.

The projection of a block is consumed before the next one overwrites it: no [rows, 2·neurons]
buffer is faulted in, written out and read back, which is what makes eager torch slower.
"""

import torch
from torch import Tensor

from .activations import find
from .cpu_statistics import Block, Statistics, row_blocks
from .cpu_sums import Products
from .moments import Moments
from .moments import join as merge
from .shapes import inner_neurons

__all__ = ["column_moments", "fuses", "geglu", "geglu_linear", "merge"]

PROJECTION_BYTES = 10 * 2**20
PROJECTION_ROWS = 512  # fewer, and reading the weights again costs more than the cache saves


class _Pass:
    """One walk over the rows: gates projected blocks into `hidden`, counting if asked to."""

    def __init__(self, hidden: Tensor, activation: str, gated: bool, segment_rows: int | None):
        rows, self.neurons = hidden.shape
        self.hidden, self.gated = hidden, gated
        self.activate = find(activation).forward
        if segment_rows is None:
            self.statistics = None
            self.blocks = row_blocks(rows, rows, self.neurons)
        else:
            self.statistics = Statistics(hidden, None, segment_rows)
            self.blocks = self.statistics.blocks
        self.products = Products(hidden, self.statistics and self.statistics.sums)

    def gate(self, block: Block, projected: Tensor) -> None:
        """Writes H of one block of projected rows."""
        if self.gated:
            activated = self.activate(projected[:, self.neurons :])
            self.products.add(projected, activated, block.start, block.segments, block.segment)
            return
        self.hidden[block.start : block.stop] = self.activate(projected)
        if self.statistics is not None:
            self.statistics.add(block)

    def finish(self) -> tuple[Tensor, Moments | None]:
        return self.hidden, None if self.statistics is None else self.statistics.finish()


def fuses(x: Tensor, weight: Tensor) -> bool:
    """The projection stays in cache, whatever its shape."""
    return True


def geglu(
    projected: Tensor, activation: str, gated: bool, segment_rows: int | None
) -> tuple[Tensor, Moments | None]:
    rows, width = projected.shape
    hidden = projected.new_empty(rows, inner_neurons("projected", width, gated))
    walk = _Pass(hidden, activation, gated, segment_rows)
    for block in walk.blocks:
        walk.gate(block, projected[block.start : block.stop].contiguous())
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


def column_moments(
    activation: Tensor, row_weight: Tensor | None, row_normalised: bool, segment_rows: int
) -> Moments:
    if row_normalised:
        wide = activation if activation.dtype == torch.float64 else activation.float()
        row_weight = 1 / wide.norm(dim=1).clamp(min=1e-12)
    statistics = Statistics(activation, row_weight, segment_rows)
    statistics.add_all()
    return statistics.finish()
