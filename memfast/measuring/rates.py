"""Rates and means with honest intervals, and the rule that prints "not shown"."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; `count` prompts in `groups` duplicate groups."""

    value: float
    low: float
    high: float
    count: int
    groups: int

    def __str__(self) -> str:
        if not self.count:
            return "unknown"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def below(self, other: "Interval") -> bool:
        """Whether this figure is lower than the other beyond both intervals."""
        return self.high < other.low

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields as plain numbers; None where nothing is known."""
        known = self.count > 0
        return {
            "value": self.value if known else None,
            "low": self.low if known else None,
            "high": self.high if known else None,
            "prompts": self.count,
            "groups": self.groups,
        }


def unseen_bound(groups: int, level: float = LEVEL) -> float:
    """The largest rate that `groups` independent failures leave possible (Clopper-Pearson)."""
    return 1 - ((1 - level) / 2) ** (1 / groups)


def mean_interval(
    values: Tensor,
    groups: Sequence[int] | None = None,
    *,
    rate: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The mean of a figure a prompt, with a percentile bootstrap interval over groups.

    values: [prompts] or [repeats, prompts] (a figure for each repetition of the experiment; the
    prompts' means over the repetitions are resampled, so that more repetitions do not pretend to
    be more prompts). NaN values are left out. groups: a duplicate group a prompt (default: each
    its own). With `rate`, the values are 0 or 1 shares: where all are equal, resampling shows no
    spread at all, so the exact (Clopper-Pearson) bound for that many groups stands in.
    """
    table = values.double().reshape(-1, values.shape[-1])
    prompts = table.nanmean(0)
    names = list(range(prompts.numel())) if groups is None else list(groups)
    if len(names) != prompts.numel():
        raise ValueError(f"groups: {len(names)} for {prompts.numel()} prompts")
    known = ~prompts.isnan()
    prompts = prompts[known]
    kept = [name for name, is_known in zip(names, known.tolist(), strict=True) if is_known]
    if not kept:
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    index = {name: number for number, name in enumerate(dict.fromkeys(kept))}
    member = torch.tensor([index[name] for name in kept])
    sums = torch.zeros(len(index), dtype=torch.float64).index_add_(0, member, prompts)
    sizes = torch.bincount(member, minlength=len(index)).double()
    value = float(sums.sum() / sizes.sum())
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(index), (draws, len(index)), generator=generator)
    means = sums[picks].sum(1) / sizes[picks].sum(1)
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    if rate and value in (0.0, 1.0):
        bound = unseen_bound(len(index))
        low, high = (0.0, bound) if value == 0 else (1 - bound, 1.0)
    return Interval(value, low, high, len(kept), len(index))


def verdict(treated: Interval, control: Interval) -> str:
    """ "shown" when the treated figure lies below its control's beyond both intervals.

    "not shown" when the intervals overlap: no claim may be printed then.
    """
    return "shown" if treated.below(control) else "not shown"
