"""Subspace: which neurons, or which weights of the second linear, are to be removed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.errors import InputError
from memfast.files import load_tensors, save_tensors

FORMAT = 1


class Subspace:
    """Boolean masks keyed by site, True = remove.

    Either `neurons` ({site: bool [neurons]}) or `weights` ({site: bool [channels, neurons]}, the
    shape of the second linear). `mean` ({site: float [neurons]}), where known, is each neuron's
    mean activation on the reference prompts: what mean compensation folds into the bias.
    """

    def __init__(
        self,
        neurons: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        *,
        mean: Mapping[str, Tensor] | None = None,
        header: Mapping[str, Any] | None = None,
    ):
        if (neurons is None) == (weights is None):
            raise InputError("a Subspace takes either neurons or weights, not both and not neither")
        self.kind = "neurons" if neurons is not None else "weights"
        self.masks = dict(neurons if neurons is not None else weights or {})
        self.mean = dict(mean or {})
        self.header = dict(header or {})
        dimensions = 1 if self.kind == "neurons" else 2
        for site, mask in self.masks.items():
            if mask.dtype != torch.bool or mask.ndim != dimensions:
                raise InputError(
                    f"{self.kind}[{site!r}] must be a bool tensor of {dimensions} dimensions, "
                    f"not {mask.dtype} of {mask.ndim}"
                )

    @property
    def sites(self) -> list[str]:
        return list(self.masks)

    @property
    def neurons(self) -> dict[str, Tensor]:
        """{site: bool [neurons]}; raises InputError on a subspace of weights."""
        return self._of_kind("neurons")

    @property
    def weights(self) -> dict[str, Tensor]:
        """{site: bool [channels, neurons]}; raises InputError on a subspace of neurons."""
        return self._of_kind("weights")

    def _of_kind(self, kind: str) -> dict[str, Tensor]:
        if self.kind != kind:
            raise InputError(f"this subspace selects {self.kind}, not {kind}")
        return self.masks

    @property
    def removed(self) -> int:
        """Number of neurons (or weights) to remove."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def density(self) -> float:
        """Share of all neurons (or weights) that is to be removed."""
        return self.removed / max(1, sum(mask.numel() for mask in self.masks.values()))

    def overlap(self, other: "Subspace") -> dict[str, float]:
        """Intersection over union at each site; 1.0 where neither selects anything."""
        if self.kind != other.kind or self.sites != other.sites:
            raise InputError("overlap needs two subspaces of the same kind and the same sites")
        return {site: iou(self.masks[site], other.masks[site]) for site in self.masks}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a JSON header, atomically."""
        tensors = {f"mask/{site}": mask for site, mask in self.masks.items()}
        tensors |= {f"mean/{site}": mean for site, mean in self.mean.items()}
        header = {**self.header, "kind": "subspace", "format": FORMAT}
        save_tensors(Path(path), tensors, {**header, "selects": self.kind, "sites": self.sites})

    @classmethod
    def load(cls, path: str | Path) -> "Subspace":
        """Read a file that `save` wrote. Refuses other kinds of file and newer formats."""
        tensors, header = load_tensors(Path(path), "subspace", FORMAT)
        sites = header.pop("sites")
        masks = {site: tensors[f"mask/{site}"] for site in sites}
        mean = {site: tensors[f"mean/{site}"] for site in sites if f"mean/{site}" in tensors}
        return cls(**{header.pop("selects"): masks}, mean=mean, header=header)


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two bool tensors; 1.0 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def check_fraction(fraction: float) -> None:
    """Raise InputError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise InputError(f"fraction must lie strictly between 0 and 1, not {fraction}")


def top_fraction(
    scores: Mapping[str, Float[Tensor, " neurons"]], fraction: float
) -> dict[str, Tensor]:
    """The int(fraction · all neurons) best neurons over all sites together.

    Equal scores: the earlier site, then the lower neuron, wins.
    """
    check_fraction(fraction)
    flat = torch.cat([score.flatten() for score in scores.values()])
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[flat.sort(descending=True, stable=True).indices[: int(fraction * flat.numel())]] = True
    return dict(zip(scores, keep.split([s.numel() for s in scores.values()]), strict=True))


def top_per_row(scores: Float[Tensor, "channels neurons"], count: int) -> Tensor:
    """Bool [channels, neurons]: each row's `count` largest; of equal scores the lower neuron wins."""
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


def random_like(subspace: Subspace, seed: int) -> Subspace:
    """A control: as many neurons or weights, drawn uniformly over all sites together."""
    generator = torch.Generator().manual_seed(seed)
    flat = {site: mask.flatten() for site, mask in subspace.masks.items()}
    total = sum(mask.numel() for mask in flat.values())
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[torch.randperm(total, generator=generator)[: subspace.removed]] = True
    parts = drawn.split([mask.numel() for mask in flat.values()])
    masks = {
        site: part.view_as(subspace.masks[site]) for site, part in zip(flat, parts, strict=True)
    }
    header = {**subspace.header, "rule": "random", "draw": seed}
    return Subspace(**{subspace.kind: masks}, mean=subspace.mean, header=header)
