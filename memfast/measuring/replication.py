"""Scores of generated images against their captions' training images, and memorization rates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memfast.measuring.cases import Cases
from memfast.measuring.distances import AT_ONCE
from memfast.measuring.rates import Interval, mean_interval
from memfast.measuring.similarity import METRICS, Comparison, Toolbox, template_mask

PAIRS = 256  # compared at a time, at most
SCORES_OF_TEMPLATES = 3  # training images from which a template's shared pixels are taken


@dataclass(frozen=True, slots=True)
class Replication:
    """Every metric's score of every image: {metric: [seeds, captions]}.

    Each score is the nearest over the caption's training images; NaN where there is none, or
    where a masked metric has no template to mask.
    """

    cases: Cases
    scores: Mapping[str, Float[Tensor, "seeds captions"]]

    def nearest(self, metric: str) -> Float[Tensor, " captions"]:
        """Each caption's score nearest to a copy over all seeds."""
        return METRICS[metric].closest(self.scores[metric], 0)

    def replicated(self, metric: str) -> Float[Tensor, " captions"]:
        """1 where a caption's nearest image over all seeds passes the threshold, NaN: unknown."""
        return hits(metric, self.nearest(metric))

    def rate(self, metric: str, which: Bool[Tensor, " captions"] | None = None) -> Interval:
        """The memorization rate of the captions (or of those in `which`), by duplicate group."""
        passed = self.replicated(metric)
        if which is not None:
            passed = passed.masked_fill(~which, float("nan"))
        return mean_interval(passed, self.cases.groups, rate=True)


def hits(metric: str, scores: Tensor) -> Tensor:
    """1 for scores that pass the metric's threshold, 0 for others, NaN for unknown ones."""
    return METRICS[metric].copies(scores).float().masked_fill(scores.isnan(), float("nan"))


def score_images(
    tools: Toolbox,
    images: Float[Tensor, "captions 3 height width"],
    cases: Cases,
    others: Float[Tensor, "others 3 height width"],
) -> dict[str, Float[Tensor, " captions"]]:
    """Each metric's score of one image a caption: the nearest over its training images.

    others: the training images that the ratio compares with; own ones may be among them.
    """
    pairs = [
        (caption, own)
        for caption, case in enumerate(cases.cases)
        for own in range(len(case.images))
    ]
    masks = {
        caption: template_mask(case.images)
        for caption, case in enumerate(cases.cases)
        if len(case.images) >= SCORES_OF_TEMPLATES
    }
    found: dict[str, list[list[float]]] = {
        metric.name: [[] for _ in cases.cases] for metric in tools.metrics
    }
    size = max(1, min(PAIRS, AT_ONCE // max(1, 4 * images[:1].numel())))
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        for kept in ([p for p in part if p[0] not in masks], [p for p in part if p[0] in masks]):
            if not kept:
                continue
            captions = torch.tensor([caption for caption, _ in kept])
            own = torch.stack([cases.cases[caption].images[k] for caption, k in kept])
            mask = [masks[caption] for caption, _ in kept if caption in masks]
            pair = Comparison(images[captions], own, others, torch.stack(mask) if mask else None)
            for name, scores in tools.score(pair).items():
                for caption, score in zip(captions.tolist(), scores.tolist(), strict=True):
                    found[name][caption].append(score)
    return {
        name: torch.stack(
            [
                METRICS[name].closest(torch.tensor(of_caption or [torch.nan]), 0)
                for of_caption in rows
            ]
        )
        for name, rows in found.items()
    }


def broken(
    images: Iterable[Float[Tensor, "captions 3 height width"]], ids: Sequence[str], of: str
) -> list[str]:
    """Notes on the captions some of whose images, one a seed, are not finite: these score NaN."""
    bad = ~torch.stack([seed.isfinite().flatten(1).all(1) for seed in images])
    return [
        f"{of}: {name}: {count} of {len(bad)} images are not finite and do not count"
        for name, count in zip(ids, bad.sum(0).tolist(), strict=True)
        if count
    ]


def replication(
    tools: Toolbox,
    images: Iterable[Float[Tensor, "captions 3 height width"]],
    cases: Cases,
    others: Float[Tensor, "others 3 height width"],
) -> Replication:
    """Score the images of one seed after another; no more than one seed's need be in memory."""
    seeds = [score_images(tools, of_seed, cases, others) for of_seed in images]
    names = [metric.name for metric in tools.metrics]
    return Replication(cases, {name: torch.stack([seed[name] for seed in seeds]) for name in names})
