"""Several scores as one, by what is known of them on references alone. Add one to COMBINATIONS.

One takes every score, the others those that have carried over from model to model: the relative
norm, or its parts where there are several noise levels, and the neurons' energy. Each is compared
with the references by its logarithm, since it is positive and skewed, in their quartiles, which a
few memorized prompts among them do not move.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

Table = Float64[Tensor, "rows scores"]
Known = Float64[Tensor, "references scores"]
Scores = Float64[Tensor, " rows"]
SHRINKAGE = 0.2  # of the references' correlations towards none
FREEDOM = 5.0  # of Student's t: finite kurtosis, and a tail that a norm's logarithm does not exceed
_LEAST = 1e-300
_QUARTILES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
_BETWEEN = 1.349  # deviations of a normal law between its quartiles
PART = "@"  # between a score's name and the noise level of its part
CARRIED, BESIDE = "relative", "energy"


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


def distance(values: Table, known: Known) -> Scores:
    """How far the standardised logarithms are from the references, on either side: a prompt whose
    image the model makes with and without it has a small norm.

    The square root of their root mean square, less 1. On that scale what is memorized nowhere falls
    off about as fast above the median as below, which a fit to a list alone takes it to do.
    """
    return _standardised(values, known).square().mean(1).pow(0.25) - 1


def exceeded(values: Float64[Tensor, "references *scores"], rate: float) -> Tensor:
    """By column, the least value that at most a share `rate` of all exceeds."""
    return values.sort(0, descending=True).values[int(rate * len(values))]


def _standardised(values: Table, known: Known) -> Table:
    shown, seen = (part.clamp(min=_LEAST).log() for part in (values, known))
    low, centre, high = seen.quantile(_QUARTILES, 0)
    return (shown - centre) / ((high - low) / _BETWEEN).clamp(min=_LEAST)


Combination = Callable[[Table, Known], Scores]
EVERY = "combined"  # the one of every score
COMBINATIONS: dict[str, Combination] = {
    EVERY: largest,
    "mean": mean,
    "whitened": whitened,
    "likelihood": likelihood,
    "distance": distance,
}


def combinations(names: Sequence[str]) -> dict[str, list[int]]:
    """The columns that each combination takes, of the scores of these names."""
    parts = [name for name in names if PART in name] or [CARRIED]
    taken = [n for n, name in enumerate(names) if name in (*parts, BESIDE)]
    found = {name: [*range(len(names))] if name == EVERY else taken for name in COMBINATIONS}
    return {name: columns for name, columns in found.items() if columns}
