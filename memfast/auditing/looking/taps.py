"""Norms of every neuron for every prompt, and pooled moments when asked: one read of each.

`models.tracing` keeps the full moments of every image; with the few token rows of a small model
that costs a fifth of the pass. A score needs each prompt's L2 norms alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float64, Int64
from memfast_kernels import Moments, column_moments, merge
from torch import Tensor, nn

from memfast.auditing.looking.gate_taps import GateTaps, gates_tell, has_kernels
from memfast.blocks.families import Site, find_sites
from memfast.errors import InputError
from memfast.observing.tracing import trace
from memfast.pipelines.drivers.driver import Driver
from memfast.precision import exact

Norms = Float64[Tensor, "rows neurons"]


class Taps:
    """What the feed-forward neurons did in the last pass; made by `tap`.

    text_rows: set before a pass, which rows of its text stream are no padding; None for all.
    leaves_out: images that are not finite, of the moments, without being told.
    """

    leaves_out = False

    def __init__(self, neurons: dict[str, int], driver: Driver) -> None:
        self.neurons, self.driver = neurons, driver
        self.text_rows: Tensor | None = None
        self._counted: Tensor | None = None
        self._moments: dict[str, Moments] = {}
        self._squares: dict[str, list[Tensor]] = {site: [] for site in neurons}
        self._rows = dict.fromkeys(neurons, 0)
        self._kernels = has_kernels(driver)

    def see(self, site: str, neurons: Tensor) -> None:
        """Called with what one site's contracting linear reads, [rows, tokens, neurons]."""
        driver, seen, own = self.driver, self._squares[site], None
        rows = len(neurons) if self.text_rows is None else len(self.text_rows)
        if self.text_rows is not None:
            run = len(seen) % driver.runs(site)
            own = driver.counted(site, driver.of_call(self.text_rows), neurons.shape[1], run)
        own = None if own is None else own.to(neurons.device)
        seen.append(driver.of_all(self._sums(neurons, own), rows))
        self._rows[site] += len(neurons)
        if self._counted is not None:
            chosen = torch.zeros(rows, dtype=torch.bool).index_fill(0, self._counted, True)
            chosen = driver.of_call(chosen).nonzero().flatten()
            whole = len(chosen) == len(neurons)
            kept = neurons if whole else neurons[chosen]
            flat = kept.flatten(0, 1) if own is None else kept[own if whole else own[chosen]]
            moments = column_moments(flat)
            before = self._moments.get(site)
            self._moments[site] = moments if before is None else merge(before, moments)

    def _sums(self, neurons: Tensor, own: Tensor | None) -> Tensor:
        """Sums of squares over the tokens that count, [rows, neurons]."""
        if self._kernels:
            weight = None if own is None else own.flatten().to(neurons.dtype)
            found = column_moments(
                neurons.flatten(0, 1), row_weight=weight, segment_rows=neurons.shape[1]
            )
            return found.m2 + found.count[:, None] * found.mean.square()
        squares = neurons.float().square()
        return (squares if own is None else squares * own[..., None]).sum(1)

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
        side; of several models the one that ran, zeros for the others. Raises InputError when a
        site was not seen once, as in a model compiled before."""
        models = self.driver.models
        rows = next((len(seen[0]) for seen in self._squares.values() if seen), 1)
        ran = {site.partition(".")[0] for site, seen in self._squares.items() if seen}
        for site, seen in self._squares.items():
            if len(models) > 1 and site.partition(".")[0] not in ran:
                continue
            if self._rows[site] != rows * self.driver.runs(site):
                raise InputError(
                    f"{site} was seen {len(seen)} times in one pass of the model, expected "
                    f"{self.driver.runs(site)}: audit it uncompiled and without feed-forward "
                    "chunking"
                )
        squares = [
            sum(seen[1:], seen[0])
            if seen
            else torch.zeros(rows, self.neurons[site], device=self.driver.device)
            for site, seen in self._squares.items()
        ]
        self.clear()
        return exact(torch.cat(squares, 1)).sqrt()

    def clear(self) -> None:
        """Forget what was seen."""
        for site, seen in self._squares.items():
            seen.clear()
            self._rows[site] = 0


@contextmanager
def tap(driver: Driver) -> Iterator[Taps | GateTaps]:
    """Taps on every feed-forward block of a denoiser for the duration of the context."""
    if gates_tell(driver):
        with trace(driver.model, driver=driver) as traced:
            yield GateTaps(traced)
        return
    sites = find_sites(driver.model)
    taps = Taps({path: site.neurons for path, site in sites.items()}, driver)
    handles = []
    try:
        for path, site in sites.items():

            def see(_: nn.Module, inputs: tuple, path: str = path, site: Site = site):
                taps.see(path, site.neurons_in(inputs[0]).flatten(1, -2))

            handles.append(site.contraction.register_forward_pre_hook(see))
        yield taps
    finally:
        for handle in handles:
            handle.remove()
