"""Several scores as one, by what is known of them on references alone. Add one to COMBINATIONS.

Some take every score, others the parts that one score has at several noise levels. A part is
compared with the references by its logarithm: norms are positive, and skewed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

Table = Float64[Tensor, "rows scores"]
Known = Float64[Tensor, "references scores"]
Scores = Float64[Tensor, " rows"]
SHRINKAGE = 0.2  # of the references' correlations towards none
FREEDOM = 5.0  # of Student's t: finite kurtosis, and a tail that a norm's logarithm does not exceed
_LEAST = 1e-300
PART = "@"  # between a score's name and the noise level of its part


def largest(values: Table, known: Known) -> Scores:
    """The largest score, each in units of its own 1 % threshold."""
    centre, edge = known.median(0).values, exceeded(known, 0.01)
    return ((values - centre) / (edge - centre).clamp(min=_LEAST)).amax(1)


def mean(values: Table, known: Known) -> Scores:
    """The mean of the standardised logarithms."""
    return _standardised(values, known).mean(1)


def whitened(values: Table, known: Known) -> Scores:
    """The sum of the standardised logarithms by the inverse of their correlations on references,
    in its deviations there: the best linear score where all are shifted alike."""
    correlations = torch.atleast_2d(torch.corrcoef(_standardised(known, known).T))
    ones = torch.ones(len(correlations), dtype=torch.float64)
    shrunk = (1 - SHRINKAGE) * correlations + SHRINKAGE * torch.eye(len(ones)).double()
    weights = torch.linalg.solve(shrunk, ones)
    return _standardised(values, known) @ weights / (weights @ ones).clamp(min=_LEAST).sqrt()


def likelihood(values: Table, known: Known) -> Scores:
    """The logarithm of the likelihood ratio of the best upward shift of every part to none, where
    standardised logarithms follow Student's t with FREEDOM degrees, independently."""
    raised = _standardised(values, known).clamp(min=0)
    spread = (FREEDOM / (FREEDOM - 2)) ** 0.5  # the deviation of t itself
    return (FREEDOM + 1) / 2 * (1 + (raised * spread).square() / FREEDOM).log().sum(1)


def exceeded(values: Float64[Tensor, "references *scores"], rate: float) -> Tensor:
    """By column, the least value that at most a share `rate` of all exceeds."""
    return values.sort(0, descending=True).values[int(rate * len(values))]


def _standardised(values: Table, known: Known) -> Table:
    shown, seen = (part.clamp(min=_LEAST).log() for part in (values, known))
    return (shown - seen.mean(0)) / seen.std(0).clamp(min=_LEAST)


@dataclass(frozen=True)
class Combination:
    """parts: it takes the parts of scores alone, and is there where there are several."""

    of: Callable[[Table, Known], Scores]
    parts: bool = True


COMBINATIONS: dict[str, Combination] = {
    "combined": Combination(largest, parts=False),
    "mean": Combination(mean),
    "whitened": Combination(whitened),
    "likelihood": Combination(likelihood),
}


def combinations(names: Sequence[str]) -> dict[str, list[int]]:
    """The columns that each combination takes, of the scores of these names."""
    every, parts = [*range(len(names))], [n for n, name in enumerate(names) if PART in name]
    found = {name: parts if each.parts else every for name, each in COMBINATIONS.items()}
    return {name: taken for name, taken in found.items() if taken}
