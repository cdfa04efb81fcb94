"""The subspace study: are masks found from disjoint sets of memorized prompts alike, and is that
more than any prompts' would be?

Chavhan et al. (arXiv 2406.18566) report that masks of disjoint sets of memorized prompts overlap.
Beside that stand the controls that their code lacks: sets of ordinary prompts located in the same
way, and random masks of equal density.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from memfast.choosing.locating import check_request, combined, site_groups, step_masks
from memfast.choosing.rules import Masks, Request
from memfast.errors import InputError
from memfast.overlap import Arm, Label, Pair, Verdict, between, count_pairs, more_shared, within
from memfast.selection import StepCount
from memfast.statistics import NeuronStatistics

MEMORIZED = "memorized, against null"
CONTRASTED = "memorized, against reference"
REFERENCE = "reference, against null"
MIXED = "memorized with reference, against null"
RANDOM = "random, of equal density"


@dataclass(frozen=True)
class OverlapStudy:
    """Arms by name; iou [masks, masks]: of every pair of masks against null, memorized first."""

    arms: dict[str, Arm]
    iou: Float64[Tensor, "masks masks"]
    subsets: int

    @property
    def verdict(self) -> Verdict:
        """Whether memorized sets share more of their subspace than reference sets do."""
        return more_shared(self.iou, self.subsets)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        found = self.verdict
        word = "more" if found.more_shared else "not more"
        return (
            f"The memorized prompts' subspace is {word} shared than ordinary prompts': mean IoU "
            f"{found.first:.3f} against {found.second:.3f} (exact permutation over {self.subsets} "
            f"and {self.subsets} sets, one-sided p = {found.p:.3f})."
        )

    def summary(self) -> dict[str, Any]:
        """Plain values, as in summary.json: all that a report shows."""
        verdict = self.verdict
        arms = {
            name: {
                "iou": arm.iou.tolist(),
                "by_step": arm.by_step.tolist(),
                "by_site": dict(zip(arm.sites, arm.final_by_site.tolist(), strict=True)),
                "by_site_and_step": arm.by_site.tolist(),
            }
            for name, arm in self.arms.items()
        }
        figures = {"memorized": verdict.first, "reference": verdict.second, "p": verdict.p}
        words = {"more_shared": verdict.more_shared, "verdict": self.sentence}
        return {"subsets": self.subsets, **figures, **words, "iou": self.iou.tolist(), "arms": arms}


def study_overlap(
    memorized: Sequence[NeuronStatistics],
    reference: Sequence[NeuronStatistics],
    null: NeuronStatistics,
    model: nn.Module,
    *,
    seed: int = 0,
    **how: Any,
) -> OverlapStudy:
    """Overlap of the masks of disjoint sets, by site and by step, beside its controls.

    memorized, reference: as many disjoint sets each, of equal sizes; null: statistics of the empty
    prompt. `how` is `locate`'s rule, fraction, steps, min_steps, score, per and over_steps.
    Raises InputError for fewer than two sets, or a different number of them.
    """
    size = len(memorized)
    if size < 2 or len(reference) != size:
        raise InputError(
            f"subsets: needs two or more, as many of each kind, not {size} and {len(reference)}"
        )
    requests: dict[Label, Request] = {}
    for name, sets, against in (
        (MEMORIZED, memorized, null),
        (REFERENCE, reference, null),
        (CONTRASTED, memorized, reference[0]),  # of equal size: the paper's norms are sums
    ):
        for number, part in enumerate(sets):
            requests[name, number] = check_request(part, against, model, **how)
    pairs = {name: within(name, size) for name in (MEMORIZED, CONTRASTED, REFERENCE, RANDOM)}
    pairs[MIXED] = between(MEMORIZED, REFERENCE, size)
    counts = _count(requests, pairs, torch.Generator().manual_seed(seed))
    arms = {
        name: Arm(pairs[name], list(requests[MEMORIZED, 0].sites), counts[name]) for name in pairs
    }
    return OverlapStudy(arms, _matrix(arms, size), size)


def _count(
    requests: dict[Label, Request], pairs: dict[str, list[Pair]], generator: torch.Generator
) -> dict[str, Tensor]:
    """Of each arm: intersections and unions [pairs, sites, steps + 1, 2], the final masks last."""
    some = next(iter(requests.values()))
    sites: dict[str, list[dict[str, Tensor]]] = {path: [] for path in some.sites}
    for paths in site_groups(some):
        for masks in _steps_and_final(requests, paths):
            masks |= {
                (RANDOM, number): _random_like(mask, generator)
                for (family, number), mask in masks.items()
                if family == MEMORIZED
            }
            for path in paths:
                here = {label: mask[path] for label, mask in masks.items()}
                sites[path].append({name: count_pairs(here, two) for name, two in pairs.items()})
    return {
        name: torch.stack([torch.stack([c[name] for c in steps], 1) for steps in sites.values()], 1)
        for name in pairs
    }


def _steps_and_final(
    requests: dict[Label, Request], paths: Sequence[str]
) -> Iterator[dict[Label, Masks]]:
    """All masks at `paths`: of each step alone, then those of all steps together."""
    counts = {label: StepCount() for label in requests}
    for masks in zip(*(step_masks(r, paths) for r in requests.values()), strict=True):
        of_step = dict(zip(requests, masks, strict=True))
        for label, mask in of_step.items():
            counts[label].add(mask)
        yield of_step
    yield {label: combined(r, paths, counts[label]) for label, r in requests.items()}


def _random_like(masks: Masks, generator: torch.Generator) -> Masks:
    """Independent draws with each site's density."""
    return {
        path: torch.rand(mask.shape, generator=generator) < mask.float().mean()
        for path, mask in masks.items()
    }


def _matrix(arms: dict[str, Arm], size: int) -> Tensor:
    """IoU of every pair of masks against null, memorized sets first, 1 on the diagonal."""
    matrix = torch.eye(2 * size, dtype=torch.float64)
    for name in (MEMORIZED, REFERENCE, MIXED):
        for (first, second), value in zip(arms[name].pairs, arms[name].iou, strict=True):
            i, j = (number + size * (family == REFERENCE) for family, number in (first, second))
            matrix[i, j] = matrix[j, i] = value
    return matrix
