"""A robust fit of the bulk of a list's scores, and whether anything stands out from it.

Only the lower half is fitted, by its median and quartile, so that memorized prompts, which lie
above, move it little while they are less than half. The tail is taken to fall exponentially, which
is heavier than a normal one of the same quartile: thresholds are too high rather than too low.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST = 100  # values: of fewer, a quartile is too rough
LEVELS = (1.0, 0.1, 0.01, 0.001)  # of the wanted rate, at which a list may stand out
CHANCE = 0.025  # that any level calls a list of nothing outstanding
DRAWS = 200
_QUARTILE = NormalDist().inv_cdf(0.75)


@dataclass(frozen=True)
class Bulk:
    """centre: the median; spread: from the lower quartile to it; logarithm: whether both are of
    the values' logarithms, as they are where all values are positive."""

    centre: float
    spread: float
    logarithm: bool

    @classmethod
    def of(cls, values: ArrayLike) -> "Bulk | None":
        """The fit to finite values; None where they are fewer than 100, or half of them equal."""
        known = _finite(values)
        if len(known) < FEWEST:
            return None
        logarithm = bool(known.min() > 0)
        quartile, centre = np.quantile(np.log(known) if logarithm else known, [0.25, 0.5])
        spread = float(centre - quartile)
        return cls(float(centre), spread, logarithm) if spread > 0 else None

    def exceeded(self, rate: float) -> float:
        """The value that a share `rate` (below a half) of an exponential tail exceeds."""
        value = self.centre + self.spread * math.log(0.5 / rate) / math.log(2)
        return math.exp(value) if self.logarithm else value

    def rates(self, value: float) -> tuple[float, float]:
        """The shares of a normal and of an exponential tail above a value."""
        distance = ((math.log(value) if self.logarithm else value) - self.centre) / self.spread
        normal = 1 - NormalDist().cdf(distance * _QUARTILE)
        return normal, 0.5 * 2**-distance if distance > 0 else 1 - 0.5 * 2**distance


@dataclass(frozen=True)
class Standing:
    """What of a list stands out.

    threshold: the least of the tried ones above which more values lie than chance allows, or the
    first where none is; low and high: its 95 % bootstrap interval. rates: the false-positive rate
    if the tail is normal, and if it is exponential. above: how many values lie above; chance: how
    many may without anything standing out.
    """

    threshold: float
    low: float
    high: float
    rates: tuple[float, float]
    above: int
    chance: int

    @property
    def anything(self) -> bool:
        return self.above > self.chance


def standing(values: ArrayLike, rate: float) -> Standing | None:
    """What of these values stands out at a false-positive rate of at most `rate`; None where they
    allow no fit."""
    known, bulk = _finite(values), Bulk.of(values)
    if bulk is None:
        return None
    found = [_at(known, bulk, rate * level) for level in LEVELS]
    return next((level for level in found if level.anything), found[0])


def most_by_chance(count: int, rate: float, chance: float = CHANCE) -> int:
    """How many of `count` exceed by chance what each exceeds at `rate`, but for `chance`."""
    draws = np.random.default_rng(0).binomial(count, rate, 100_000)
    return int(np.quantile(draws, 1 - chance, method="higher"))


def _at(values: NDArray[np.float64], bulk: Bulk, rate: float) -> Standing:
    threshold = bulk.exceeded(rate)
    drawn = [fit.exceeded(rate) for fit in _redrawn(values, bulk.logarithm)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Standing(
        threshold,
        float(low),
        float(high),
        bulk.rates(threshold),
        int((values > threshold).sum()),
        most_by_chance(len(values), rate, CHANCE / len(LEVELS)),
    )


def _redrawn(values: NDArray[np.float64], logarithm: bool) -> list[Bulk]:
    """Fits to bootstrap samples: where the order statistics of so many uniform numbers lie."""
    count, random = len(values), np.random.default_rng(0)
    first = random.beta(count / 4, 3 * count / 4, DRAWS)
    second = first + (1 - first) * random.beta(count / 4, count / 2, DRAWS)
    found = np.quantile(np.log(values) if logarithm else values, [first, second])
    return [Bulk(float(high), float(high - low), logarithm) for low, high in found.T]


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values, float)
    return values[np.isfinite(values)]
