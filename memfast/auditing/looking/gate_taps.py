"""Norms and moments that a GPU's fused gates count in passing: nothing is read a second time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float64, Int64
from memfast_kernels import Moments, available
from torch import Tensor

from memfast.blocks.families import find_sites
from memfast.observing.side_by_side import Places
from memfast.observing.tracing import Trace
from memfast.pipelines.drivers.driver import Driver


def has_kernels(driver: Driver) -> bool:
    """Whether statistics cost one read, or none, on the driver's device."""
    return driver.device.type != "cpu" and "triton" in available(driver.device, driver.dtype)


def gates_tell(driver: Driver) -> bool:
    """Whether gates count in passing on the driver's device, and every row of a pass counts."""
    if not has_kernels(driver):
        return False
    one_call = len(driver.models) == 1 and type(driver).calls_of is Driver.calls_of
    return one_call and not any(map(driver.padded, find_sites(driver.model)))


class GateTaps:
    """As `Taps`, of a model that is traced."""

    leaves_out = True

    def __init__(self, traced: Trace) -> None:
        self.traced = traced
        self.places = Places({path: site.neurons for path, site in traced.sites.items()})
        self.text_rows: Tensor | None = None
        self._counted: Tensor | None = None
        self._moments: dict[str, Moments] = {}

    @contextmanager
    def counting(self, rows: Int64[Tensor, " counted"]) -> Iterator[dict[str, Moments]]:
        """Within the context, a pass leaves the moments of these rows, pooled, by site; without
        those whose norms are not finite."""
        self._counted, self._moments = rows, {}
        try:
            yield self._moments
        finally:
            self._counted = None

    def drain(self) -> Float64[Tensor, "rows neurons"]:
        """L2 norm over tokens of every neuron of the one pass since the last drain, sites side by
        side, where it was computed."""
        row = self.places.row(self.traced.drain())
        norms = row.l2_norm
        if self._counted is not None:
            counted = torch.zeros(len(norms), dtype=torch.bool)
            counted[self._counted] = True
            kept = counted.to(norms.device, non_blocking=True) & norms.isfinite().all(1)
            self._moments |= self.places.moments(row.pooled(kept))
        return norms

    def clear(self) -> None:
        """Forget what was seen."""
        self.traced.clear()
