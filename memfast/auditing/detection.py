"""How well a score tells two sets apart: ROC figures, with intervals that respect groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    positive, negative = np.sort(np.asarray(positive, float)), np.sort(np.asarray(negative, float))
    below = np.searchsorted(negative, positive, "left")
    upto = np.searchsorted(negative, positive, "right")
    return float((below + upto).sum() / (2 * len(positive) * len(negative)))


def rate_at(positive: ArrayLike, negative: ArrayLike, false_rate: float) -> float:
    """The share of positives above the least threshold that at most a share `false_rate` of the
    negatives exceeds."""
    ordered = np.sort(np.asarray(negative, float))[::-1]
    threshold = ordered[min(len(ordered) - 1, int(false_rate * len(ordered)))]
    return float((np.asarray(positive, float) > threshold).mean())


def roc(positive: ArrayLike, negative: ArrayLike) -> tuple[Array, Array]:
    """False and true positive rates, from (0, 0) to (1, 1), one point a distinct score."""
    false, true = _counts(positive, negative)
    return false / max(1, false[-1]), true / max(1, true[-1])


def precision_recall(positive: ArrayLike, negative: ArrayLike) -> tuple[Array, Array]:
    """Recall and precision, one point a distinct score, from the highest score down."""
    false, true = _counts(positive, negative)
    return true[1:] / max(1, true[-1]), true[1:] / (true[1:] + false[1:])


def _counts(positive: ArrayLike, negative: ArrayLike) -> tuple[Array, Array]:
    """How many of each stand at or above each distinct score, from none to all."""
    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    values = np.unique(np.concatenate([positive, negative]))[::-1]
    true = len(positive) - np.searchsorted(np.sort(positive), values, "left")
    false = len(negative) - np.searchsorted(np.sort(negative), values, "left")
    return np.append(0.0, false), np.append(0.0, true)


FIGURES: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "auc": auc,
    "tpr_at_1_percent": lambda positive, negative: rate_at(positive, negative, 0.01),
    "tpr_at_0.1_percent": lambda positive, negative: rate_at(positive, negative, 0.001),
}


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def figures(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_groups: Sequence[object] | None = None,
    negative_groups: Sequence[object] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every entry of FIGURES with a percentile interval; whole groups are drawn, never parts."""
    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    random = np.random.default_rng(seed)
    samplers = [_Groups(positive, positive_groups), _Groups(negative, negative_groups)]
    drawn = [[sampler.draw(random) for sampler in samplers] for _ in range(draws)]
    result = {}
    for name, figure in FIGURES.items():
        low, high = np.quantile([figure(*pair) for pair in drawn], [0.025, 0.975])
        result[name] = Interval(figure(positive, negative), float(low), float(high))
    return result


class _Groups:
    """Values by group, to be drawn with replacement a group at a time."""

    def __init__(self, values: Array, groups: Sequence[object] | None) -> None:
        members: dict[object, list[int]] = {}
        for position in range(len(values)):
            key = position if groups is None or groups[position] is None else groups[position]
            members.setdefault(key, []).append(position)
        self.parts = [values[positions] for positions in members.values()]

    def draw(self, random: np.random.Generator) -> Array:
        chosen = random.integers(len(self.parts), size=len(self.parts))
        return np.concatenate([self.parts[number] for number in chosen])
