"""On what a verdict rests: references of the list's kind, the list itself, or nothing."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, ks_2samp, laplace, norm

from memfast.auditing.calibration import Calibration
from memfast.auditing.judging.bulk import Bulk, most_by_chance, standing
from memfast.auditing.judging.footing import footing
from memfast.auditing.judging.references import (
    Likeness,
    energy_coefficient,
    kolmogorov,
    scores_differ,
)

ALIKE = Likeness(0.0, 0.0)


def scores(count: int, seed: int, centre: float = 0.0, spread: float = 0.2) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(centre, spread, count))


def calibration(reference: np.ndarray) -> Calibration:
    return Calibration(["norm"], [], torch.from_numpy(reference)[:, None], [])


def test_the_tail_is_a_laplace_law() -> None:
    values = scores(100_001, 0, centre=1.0)
    bulk = Bulk.of(values)
    assert bulk is not None
    scale = bulk.spread / math.log(2)
    for rate in (0.2, 0.01, 1e-5):
        threshold = laplace.isf(rate, bulk.centre, scale)
        assert bulk.exceeded(rate) == pytest.approx(math.exp(threshold))
        normal, exponential = bulk.rates(bulk.exceeded(rate))
        assert exponential == pytest.approx(rate)
        deviation = bulk.spread / norm.ppf(0.75)
        assert normal == pytest.approx(norm.sf(threshold, bulk.centre, deviation))
    assert (bulk.centre, deviation) == pytest.approx((1.0, 0.2), rel=0.02)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [100, 1000, 20_000])
def test_nothing_stands_out_where_nothing_is(seed: int, count: int) -> None:
    for values in (scores(count, seed), np.random.default_rng(seed).normal(-1, 3, count)):
        found = standing(values, 0.01)
        assert found is not None
        assert not found.anything
        assert found.low < found.threshold < found.high


@pytest.mark.parametrize(("memorized", "usual"), [(10, 2000), (100, 1000), (90, 110)])
def test_what_is_memorized_stands_out(memorized: int, usual: int) -> None:
    """From a few in a thousand to nearly half, none of the usual with them."""
    values = np.concatenate([scores(memorized, 1, centre=3.0), scores(usual, 2)])
    found = footing(values, "norm", calibration(values), 0.01, None)
    assert (found.basis, found.verdict) == ("the list itself", "suspicious")
    assert found.flagged == memorized
    assert found.threshold > values[memorized:].max()


def test_small_and_constant_lists_have_no_verdict() -> None:
    for values in (scores(99, 0), np.ones(500), np.full(500, np.nan)):
        found = footing(values, "norm", calibration(values), 0.01, None)
        assert (found.basis, found.verdict, found.flagged) == ("none", "no verdict", 0)
        assert found.threshold == np.inf


def test_references_give_the_threshold_and_say_so() -> None:
    known, values = scores(400, 0), np.concatenate([scores(20, 1, centre=3.0), scores(180, 2)])
    found = footing(values, "norm", calibration(known), 0.01, ALIKE)
    assert (found.basis, found.verdict) == ("references", "suspicious")
    assert found.threshold == np.sort(known)[-5]
    assert found.flagged == (values > found.threshold).sum() >= 20
    quiet = footing(values[20:], "norm", calibration(known), 0.01, ALIKE)
    assert quiet.verdict == "nothing stands out"


def test_references_of_another_kind_change_the_verdict() -> None:
    """Captions and scores apart: set aside. Captions alone: unsure. Scores alone: said."""
    known, foreign = scores(400, 0), Likeness(0.9, 0.3)
    values = scores(1000, 1, centre=0.1, spread=0.8)
    assert (values > np.quantile(known, 0.99)).mean() > 0.2  # flagged, were they believed
    aside = footing(values, "norm", calibration(known), 0.01, foreign)
    assert (aside.basis, aside.verdict) == ("the list itself", "nothing stands out")
    assert "set aside" in " ".join(aside.says)
    unsure = footing(scores(1000, 2), "norm", calibration(known), 0.01, foreign)
    assert (unsure.basis, unsure.verdict) == ("references", "unsure")
    said = footing(values, "norm", calibration(known), 0.01, ALIKE)
    assert (said.basis, said.verdict) == ("references", "suspicious")
    assert "may be memorized" in " ".join(said.says)


def test_memorized_references_are_named() -> None:
    named = Likeness(0.0, 0.0, ["a fox", "a hen"])
    found = footing(scores(200, 0), "norm", calibration(scores(200, 1)), 0.01, named)
    assert found.verdict == "unsure"
    assert "'a fox', 'a hen'" in found.says[1]


def test_chance_is_binomial() -> None:
    for count, rate in ((200, 0.01), (5000, 0.001)):
        expected = binom.isf(0.025, count, rate)
        assert abs(most_by_chance(count, rate) - expected) <= 1


def test_kolmogorov_is_a_lower_bound() -> None:
    one, other = scores(300, 0), scores(200, 1, centre=0.3)
    distance = ks_2samp(one, other).statistic
    slack = 1.95 * (1 / 300 + 1 / 200) ** 0.5
    assert kolmogorov(one, other) == pytest.approx(distance - slack)
    assert kolmogorov(one, one) == 0
    assert not scores_differ(one, other, 1.0)
    assert not scores_differ(one, [], 1.0)


def test_the_energy_coefficient_grows_with_the_gap() -> None:
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn(150, 8, generator=random).double() for _ in range(2))
    found = [energy_coefficient(one + gap, other) for gap in (0.0, 1.0, 5.0)]
    assert found[0] < 0.01 < 0.1 < found[1] < found[2] < 1
    assert energy_coefficient(one, one[:1]) == 0


def test_the_interval_is_the_bootstrap_s() -> None:
    values, random = scores(500, 3), np.random.default_rng(1)
    found = standing(values, 0.01)
    assert found is not None
    drawn = [Bulk.of(random.choice(values, 500)) for _ in range(1000)]
    expected = np.quantile([fit.exceeded(0.01) for fit in drawn if fit], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=0.05)
