"""Subspace: which neurons, or which weights of the second linear, are to be removed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from memfast.errors import InputError, reading
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

    def __repr__(self) -> str:
        return (
            f"Subspace({self.removed:,} {self.kind} of {len(self.masks)} sites, "
            f"{self.density:.1%} of all)"
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
        """Read a file that `save` wrote. Raises InputError for what is none, a damaged one, another
        kind of file and a newer format."""
        tensors, header = load_tensors(Path(path), "subspace", FORMAT, finite=True)
        with reading(path):
            sites, kind = header.pop("sites"), header.pop("selects")
            if kind not in ("neurons", "weights"):
                raise InputError(f"{path}: damaged (selects {str(kind)[:40]})")
            masks = {site: tensors[f"mask/{site}"] for site in sites}
            mean = {site: tensors[f"mean/{site}"] for site in sites if f"mean/{site}" in tensors}
            for site, values in mean.items():
                if values.shape != masks[site].shape[-1:]:
                    raise InputError(f"{path}: damaged (the shape of mean/{site})")
            return cls(**{kind: masks}, mean=mean, header=header)


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two bool tensors; 1.0 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def check_fraction(fraction: float) -> None:
    """Raise InputError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise InputError(f"fraction must lie strictly between 0 and 1, not {fraction}")


PER = ("global", "site", "row")


def top(scores: Mapping[str, Tensor], fraction: float, per: str = "global") -> dict[str, Tensor]:
    """Bool masks of the best `fraction`: of all scores together, of each site, or of each row.

    int(fraction · size) are taken, of the scores of all sites, of a site [neurons] or
    [channels, neurons], or of a row of [channels, neurons]. Of equal scores the earlier site, then
    the lower index wins. Raises InputError where that is not one neuron or weight anywhere.
    """
    check_fraction(fraction)
    if per not in PER:
        raise InputError(f"per must be one of {', '.join(PER)}, not {per!r}")
    match per:
        case "global":
            flat = torch.cat([score.flatten() for score in scores.values()])
            parts = _largest(flat, fraction).split([s.numel() for s in scores.values()])
        case "site":
            parts = [_largest(score.flatten(), fraction) for score in scores.values()]
        case _:
            parts = [top_of_rows(score, fraction) for score in scores.values()]
    if not any(part.any() for part in parts):
        raise InputError(f"fraction {fraction} is less than one neuron or weight per {per}")
    return {site: part.view_as(scores[site]) for site, part in zip(scores, parts, strict=True)}


def _largest(values: Float[Tensor, " n"], fraction: float) -> Bool[Tensor, " n"]:
    """The int(fraction · n) largest; of equal ones the first."""
    count = int(fraction * len(values))
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    place = len(values) - count
    least = float(np.partition(values.numpy(), place)[place])
    chosen = values > least
    ties = (values == least).nonzero()[: count - int(chosen.sum())]
    chosen[ties] = True
    return chosen


def top_of_rows(
    scores: Float[Tensor, "channels neurons"], fraction: float
) -> Bool[Tensor, "channels neurons"]:
    """Each row's int(fraction · neurons) largest; of equal ones the lower neuron."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter_(1, columns_of_rows(scores, int(fraction * scores.shape[1])), True)


def columns_of_rows(
    scores: Float[Tensor, "channels neurons"], count: int
) -> Int64[Tensor, "channels count"]:
    """The columns of each row's `count` largest; of equal ones the lower column. In no order."""
    if count == 0:
        return torch.empty(len(scores), 0, dtype=torch.int64)
    best = scores.topk(min(count + 1, scores.shape[1]), dim=1)
    columns = best.indices[:, :count]
    if best.values.shape[1] > count:
        tied = best.values[:, count - 1] == best.values[:, count]
        columns[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :count]
    return columns


def contrast_of_rows(
    weight: Float[Tensor, "channels neurons"],
    memorized: Float[Tensor, " neurons"],
    reference: Float[Tensor, " neurons"],
    fraction: float,
) -> Bool[Tensor, "channels neurons"]:
    """The paper's mask at one step (arXiv 2406.18566): with S = |W| · norm, each row's
    int(fraction · neurons) largest S_memorized, where S_memorized > S_reference.

    Works on blocks of rows, so that scratch memory stays small. Of equal scores the lower neuron.
    """
    count = int(fraction * weight.shape[1])
    mask = torch.zeros_like(weight, dtype=torch.bool)
    size = max(1, _BLOCK // weight.shape[1])
    for rows, chosen in zip(weight.split(size), mask.split(size), strict=True):
        magnitude = rows.abs()
        scores = magnitude * memorized
        columns = columns_of_rows(scores, count)
        theirs = magnitude.gather(1, columns) * reference[columns]
        chosen.scatter_(1, columns, scores.gather(1, columns) > theirs)
    return mask


_BLOCK = 1 << 20  # scores at a time: 4 MB

OVER_STEPS = ("mean", "union", "intersection", "minimum")


class StepCount:
    """At how many steps each neuron or weight was selected."""

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}

    def add(self, masks: Mapping[str, Tensor]) -> None:
        """One more step's masks."""
        for site, mask in masks.items():
            if site not in self.counts:
                self.counts[site] = torch.zeros_like(mask, dtype=torch.int16)
            self.counts[site] += mask

    def at_least(self, steps: int) -> dict[str, Tensor]:
        """Masks of what was selected at `steps` steps or more."""
        return {site: count >= steps for site, count in self.counts.items()}


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
