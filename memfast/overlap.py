"""How much masks share: intersections over unions, and whether one set of masks shares more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

Label = tuple[str, int]  # a family of masks and a number in it
Pair = tuple[Label, Label]


def within(family: str, size: int) -> list[Pair]:
    """Every two different masks of a family."""
    return [((family, a), (family, b)) for a, b in combinations(range(size), 2)]


def between(first: str, second: str, size: int) -> list[Pair]:
    """Every mask of one family with every mask of another."""
    return [((first, a), (second, b)) for a, b in product(range(size), repeat=2)]


def count_pairs(masks: Mapping[Label, Tensor], pairs: Sequence[Pair]) -> Int64[Tensor, "pairs 2"]:
    """Sizes of the intersection and the union of each pair of bool masks."""
    sizes = {label: int(mask.count_nonzero()) for label, mask in masks.items()}
    both = [int((masks[a] & masks[b]).count_nonzero()) for a, b in pairs]
    counts = [(n, sizes[a] + sizes[b] - n) for n, (a, b) in zip(both, pairs, strict=True)]
    return torch.tensor(counts, dtype=torch.int64).view(-1, 2)


@dataclass(frozen=True)
class Arm:
    """One comparison. counts: intersection and union of each pair, [pairs, sites, steps + 1, 2];
    the last step stands for the mask that is made of all steps.
    """

    pairs: list[Pair]
    sites: list[str]
    counts: Int64[Tensor, "pairs sites steps 2"]

    @property
    def iou(self) -> Float64[Tensor, " pairs"]:
        """Of each pair's final masks, over all sites together."""
        return _ratio(self.counts[:, :, -1].sum(1))

    @property
    def by_step(self) -> Float64[Tensor, " steps"]:
        """Mean over pairs, at each step, over all sites together."""
        return _ratio(self.counts[:, :, :-1].sum(1)).mean(0)

    @property
    def by_site(self) -> Float64[Tensor, "sites steps"]:
        """Mean over pairs, at each site and step."""
        return _ratio(self.counts[:, :, :-1]).mean(0)

    @property
    def final_by_site(self) -> Float64[Tensor, " sites"]:
        """Mean over pairs of the final masks' overlap at each site."""
        return _ratio(self.counts[:, :, -1]).mean(0)


def _ratio(counts: Int64[Tensor, "*axes 2"]) -> Float64[Tensor, "*axes"]:
    """Intersection over union; 1 where both masks are empty, as in `selection.iou`."""
    shared, union = counts.double().unbind(-1)
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


@dataclass(frozen=True)
class Verdict:
    """Whether the first set's masks share more than the second's, both as mean IoU."""

    first: float
    second: float
    p: float

    @property
    def more_shared(self) -> bool:
        """At the 5 % level."""
        return self.first > self.second and self.p <= 0.05


def more_shared(iou: Float64[Tensor, "masks masks"], first: int) -> Verdict:
    """Do the first `first` masks overlap more among themselves than the others do?

    iou: symmetric, of every pair. p is one-sided and exact: the share of all ways to choose `first`
    of the masks (which set a mask belongs to being arbitrary if the sets are alike) under which the
    difference of the mean overlaps is at least as large.
    """
    masks = len(iou)
    observed = _means(iou, range(first))
    difference = observed[0] - observed[1] - 1e-12
    shuffled = [_means(iou, chosen) for chosen in combinations(range(masks), first)]
    p = sum(a - b >= difference for a, b in shuffled) / len(shuffled)
    return Verdict(*observed, p)


def _means(iou: Tensor, chosen: Sequence[int]) -> tuple[float, float]:
    rest = [i for i in range(len(iou)) if i not in set(chosen)]
    a, b = (
        sum(float(iou[i, j]) for i, j in combinations(part, 2)) / (len(part) * (len(part) - 1) / 2)
        for part in (list(chosen), rest)
    )
    return a, b
