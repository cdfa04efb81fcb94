"""Cut neurons out of a block: rows of its expanding linears, columns of its contracting one."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from memfast.blocks.families import Site
from memfast.blocks.families.linears import fit, is_plain, outputs_of
from memfast.errors import InputError

KEPT = "kept_neurons"  # buffer on a narrowed block: which of the base's neurons it has, int32
UNKNOWN = -1  # in that buffer, where a block was built from a config and not yet given weights


def narrow(site: Site, keep: Int64[Tensor, " kept"]) -> None:
    """Leave only the neurons `keep` (ascending) in the block, in place.

    The block remembers which of its base's neurons these are, also when narrowed again.
    """
    for linear, name, new in sliced(site, keep):
        setattr(linear, name, new)
    for linear in (*site.expansions, site.contraction):
        fit(linear)
    for name in site.layout.width_attributes:
        setattr(site.block, name, len(keep))
    if hasattr(site.contraction, "_tp_packed_row_blocks"):  # diffusers' plan for tensor parallelism
        site.contraction._tp_packed_row_blocks = [  # type: ignore[assignment]
            site.layout.offset,
            len(keep),
        ]
    keep = keep.to(site.contraction.weight.device)
    before = getattr(site.block, KEPT, None)
    site.block.register_buffer(KEPT, keep.int() if before is None else before.to(keep.device)[keep])


def sliced(site: Site, keep: Int64[Tensor, " kept"]) -> Iterator[tuple[Any, str, nn.Parameter]]:
    """(linear, parameter name, its smaller replacement) wherever neurons go."""
    for expansion, linear in zip(site.layout.expansions, site.expansions, strict=True):
        rows = positions(outputs_of(linear), site.neurons, keep, expansion.start, expansion.halves)
        yield linear, "weight", _select(linear.weight, 0, rows)
        if linear.bias is not None:
            yield linear, "bias", _select(linear.bias, 0, rows)
    weight = site.contraction.weight
    columns = positions(weight.shape[1], site.neurons, keep, site.layout.offset, 1)
    yield site.contraction, "weight", _select(weight, 1, columns)


def add_bias(linear: Any) -> None:
    """Give a linear without bias one of zeros."""
    if linear.bias is None:
        linear.bias = nn.Parameter(
            linear.weight.new_zeros(len(linear.weight)), requires_grad=linear.weight.requires_grad
        )


def kept_neurons(removed: Tensor, width: int) -> Int64[Tensor, " kept"]:
    """`width` indices, ascending: all that are not removed, then the first of the rest."""
    return removed.to(torch.uint8).argsort(stable=True)[:width].sort().values


def positions(size: int, neurons: int, keep: Tensor, start: int, halves: int) -> Tensor:
    """Which of `size` rows or columns stay, where `halves` runs of neurons begin at `start`."""
    end = start + halves * neurons
    runs = [start + half * neurons + keep for half in range(halves)]
    device = keep.device
    return torch.cat(
        [torch.arange(start, device=device), *runs, torch.arange(end, size).to(device)]
    )


def check_plain(site: Site) -> None:
    """Raise InputError unless the block's linears are plain, so that they can be cut."""
    for linear in (*site.expansions, site.contraction):
        if not is_plain(linear):
            raise InputError(
                f"{site.path}: {type(linear).__name__} is not a plain linear; compact first, then "
                "quantize or load adapters (or fuse and unload them)"
            )
        if linear.weight.is_meta:
            raise InputError(
                f"{site.path}: its weights are on the meta device; compact before offloading"
            )


def _select(old: Tensor, dim: int, index: Tensor) -> nn.Parameter:
    kept = old.detach().index_select(dim, index.to(old.device))
    return nn.Parameter(kept, requires_grad=old.requires_grad)
