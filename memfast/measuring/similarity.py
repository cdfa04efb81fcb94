"""Is an image a copy of its training image? The replication metrics, in one table.

To add a metric, add an entry to `METRICS`: tests, reports and thresholds follow from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from memfast.measuring import distances
from memfast.measuring.networks.backbones import Embed, MissingNetwork
from memfast.measuring.networks.table import load_network

Images = Float[Tensor, "images 3 height width"]
Mask = Bool[Tensor, "images height width"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a metric may look at: generated images beside their own training images.

    `others`: the training images, own and duplicates included, for metrics that compare with the
    nearest others. `mask`: the pixels that count (masked metrics only).
    """

    images: Images
    own: Images
    others: Float[Tensor, "others 3 height width"]
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One replication metric. `copy` says on which side of the threshold copies lie."""

    name: str
    version: int
    threshold: float
    copy: Literal["above", "below"]
    source: str
    score: Callable[[Comparison, Embed | None], Tensor]
    network: str | None = None
    masked: bool = False

    @property
    def label(self) -> str:
        """Name and version, as stored beside every score."""
        return f"{self.name}@{self.version}"

    def copies(self, scores: Tensor) -> Tensor:
        """Which scores lie on the copies' side of the threshold; NaN never does."""
        return scores > self.threshold if self.copy == "above" else scores < self.threshold

    def closest(self, scores: Tensor, dim: int) -> Tensor:
        """The score nearest to a copy along an axis; NaN counts as far away."""
        worst = float("-inf") if self.copy == "above" else float("inf")
        filled = scores.nan_to_num(nan=worst, posinf=float("inf"), neginf=float("-inf"))
        best = filled.amax(dim) if self.copy == "above" else filled.amin(dim)
        return best.masked_fill(scores.isnan().all(dim), float("nan"))


def _tiled(pair: Comparison, _: Embed | None) -> Tensor:
    return distances.tiled_l2(pair.images, pair.own, pair.mask)


def _ratio(pair: Comparison, _: Embed | None) -> Tensor:
    return distances.l2_ratio(pair.images, pair.own, pair.others, pair.mask)


def _ssim(pair: Comparison, _: Embed | None) -> Tensor:
    return distances.ssim(pair.images, pair.own, pair.mask)


def _ms_ssim(pair: Comparison, _: Embed | None) -> Tensor:
    return distances.ms_ssim(pair.images, pair.own, pair.mask)


def _cosine(pair: Comparison, embed: Embed | None) -> Tensor:
    if embed is None:
        raise ValueError("embed: a feature metric needs its network")
    images, own = pair.images, pair.own
    if pair.mask is not None:  # what does not count looks the same in both
        images, own = (x.where(pair.mask[:, None], 0.5) for x in (images, own))
    unique, back = own.cpu().unique(dim=0, return_inverse=True)
    return F.cosine_similarity(embed(images), embed(unique.to(images.device))[back])


_CARLINI = "Carlini et al. 2023"
_SSCD = "Pizzi et al. 2022"
_PLAIN = (
    Metric("tiled_l2", 1, 0.15, "below", _CARLINI, _tiled),
    Metric("l2_ratio", 1, 0.5, "below", _CARLINI, _ratio),
    Metric("ssim", 1, 0.6, "above", "Wang et al. 2004", _ssim),
    Metric("ms_ssim", 1, 0.7, "above", "Wang et al. 2003", _ms_ssim),
    Metric("perceptual", 1, 0.6, "above", "memfast", _cosine, "efficientnet-lite0-spatial"),
    Metric("sscd_disc_large", 1, 0.7, "above", _SSCD, _cosine, "sscd_disc_large"),
    Metric("sscd_disc_mixup", 1, 0.7, "above", _SSCD, _cosine, "sscd_disc_mixup"),
)


def _masked(metric: Metric) -> Metric:
    fields = (metric.version, metric.threshold, metric.copy, metric.source, metric.score)
    return Metric(f"{metric.name}_masked", *fields, network=metric.network, masked=True)


METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (*_PLAIN, *(_masked(metric) for metric in _PLAIN))
}

HEADLINE = ("l2_ratio", "ssim", "sscd_disc_large", "sscd_disc_mixup")
"""The metrics that claims rest on, where they are at hand."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The metrics that can run here, their networks, and why the others cannot."""

    metrics: tuple[Metric, ...]
    networks: Mapping[str, Embed] = field(repr=False)
    missing: Mapping[str, str]
    device: torch.device | None = None

    def score(self, pair: Comparison) -> dict[str, Tensor]:
        """Every metric's score of every image: {metric name: float [images]}, on the CPU.

        Computed on the toolbox's device, or where the images are; `others` stay where they are.
        Masked metrics run only when the comparison has a mask; the others never see it.
        """
        if self.device is not None:
            mask = None if pair.mask is None else pair.mask.to(self.device)
            images, own = pair.images.to(self.device), pair.own.to(self.device)
            pair = Comparison(images, own, pair.others, mask)
        bare = Comparison(pair.images, pair.own, pair.others)
        scores = {}
        for metric in self.metrics:
            if metric.masked and pair.mask is None:
                continue
            embed = self.networks.get(metric.network) if metric.network else None
            scores[metric.name] = metric.score(pair if metric.masked else bare, embed).cpu()
        return scores


def toolbox(
    names: tuple[str, ...] | None = None,
    weights: Mapping[str, str] | None = None,
    device: torch.device | None = None,
) -> Toolbox:
    """The named metrics (default: all), with their networks loaded, computed on `device`.

    `weights`: a file for each network that needs one. A metric whose network is absent goes into
    `missing` with the reason and does not stop the others. Raises ValueError for unknown names.
    """
    weights = dict(weights or {})
    names = tuple(METRICS) if names is None else names
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metrics: {name!r} is none of {', '.join(METRICS)}")
    networks: dict[str, Embed] = {}
    missing: dict[str, str] = {}
    for network in dict.fromkeys(METRICS[name].network for name in names):
        if network is None:
            continue
        try:
            networks[network] = load_network(network, weights.get(network), device)
        except MissingNetwork as error:
            missing[network] = str(error)
    able = [METRICS[name] for name in names if METRICS[name].network not in missing]
    unable = {
        name: missing[METRICS[name].network or ""]
        for name in names
        if METRICS[name].network in missing
    }
    return Toolbox(tuple(able), networks, unable, device)


def metric_facts(tools: Toolbox) -> dict[str, Any]:
    """Each metric's version, threshold and source, so that a rate can be read later."""
    return {
        metric.name: {
            "version": metric.version,
            "threshold": metric.threshold,
            "copies_are": metric.copy,
            "source": metric.source,
            "network": metric.network,
            "headline": metric.name in HEADLINE,
        }
        for metric in tools.metrics
    }


def template_mask(
    images: Float[Tensor, "images 3 height width"], tolerance: float = 0.1
) -> Bool[Tensor, "height width"]:
    """The pixels that a template's training images share.

    True where no channel's standard deviation over the images exceeds `tolerance`.
    """
    return images.std(0, unbiased=False).amax(0) <= tolerance
