"""Norms of every neuron for every prompt, and pooled moments when asked: one read of each.

`models.tracing` keeps the full moments of every image; with the few token rows of a small model
that costs a fifth of the pass. A score needs each prompt's L2 norms alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float64, Int64
from memfast_kernels import Moments, column_moments
from torch import Tensor, nn

from memfast.blocks.families import find_sites
from memfast.errors import InputError

Norms = Float64[Tensor, "rows neurons"]


class Taps:
    """What the feed-forward neurons did in the last pass; made by `tap`."""

    def __init__(self, sites: list[str]) -> None:
        self._counted: Tensor | None = None
        self._moments: dict[str, Moments] = {}
        self._squares: dict[str, list[Tensor]] = {site: [] for site in sites}

    def see(self, site: str, neurons: Tensor) -> None:
        """Called with what one site's contracting linear reads, [rows, tokens, neurons]."""
        self._squares[site].append(neurons.float().square().sum(1))
        if self._counted is not None:
            kept = neurons if len(self._counted) == len(neurons) else neurons[self._counted]
            self._moments[site] = column_moments(kept.flatten(0, 1)).to("cpu")

    @contextmanager
    def counting(self, rows: Int64[Tensor, " counted"]) -> Iterator[dict[str, Moments]]:
        """Within the context, a pass leaves the moments of these rows, pooled, by site."""
        self._counted, self._moments = rows, {}
        try:
            yield self._moments
        finally:
            self._counted = None

    def drain(self) -> Norms:
        """L2 norm over tokens of every neuron of the one pass since the last drain, sites side by
        side. Raises InputError when a site was not seen once, as in a model compiled before."""
        for site, seen in self._squares.items():
            if len(seen) != 1:
                raise InputError(
                    f"{site} was seen {len(seen)} times in one pass of the model, expected 1: "
                    "audit it uncompiled and without feed-forward chunking"
                )
        return torch.cat([seen.pop() for seen in self._squares.values()], 1).double().sqrt().cpu()


@contextmanager
def tap(model: nn.Module) -> Iterator[Taps]:
    """Taps on every feed-forward block of `model` for the duration of the context."""
    sites = find_sites(model)
    taps = Taps(list(sites))
    handles = []
    try:
        for path, site in sites.items():

            def see(_: nn.Module, inputs: tuple, path: str = path, columns: slice = site.columns):
                taps.see(path, inputs[0][..., columns].flatten(1, -2))

            handles.append(site.contraction.register_forward_pre_hook(see))
        yield taps
    finally:
        for handle in handles:
            handle.remove()
