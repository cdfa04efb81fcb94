"""Detection figures against scipy and cases worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from memfast.auditing.detection import FIGURES, auc, figures, precision_recall, rate_at, roc

numbers = st.lists(st.integers(-3, 3), min_size=1, max_size=9)


@given(numbers, numbers)
def test_auc_is_mann_whitneys(positive: list[int], negative: list[int]) -> None:
    expected = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert auc(positive, negative) == pytest.approx(expected, abs=1e-12)


@given(numbers, numbers)
def test_the_area_under_the_curve_is_auc(positive: list[int], negative: list[int]) -> None:
    false, true = roc(positive, negative)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auc(positive, negative), abs=1e-12)


@given(numbers, numbers, st.sampled_from([0.001, 0.01, 0.1, 0.5]))
def test_no_more_negatives_pass_than_the_rate_allows(positive, negative, rate: float) -> None:
    best = max(
        (np.array(positive) > threshold).mean()
        for threshold in {*positive, *negative}
        if (np.array(negative) > threshold).mean() <= rate
    )
    assert rate_at(positive, negative, rate) == pytest.approx(best)


def test_rates_by_hand() -> None:
    negative = np.arange(100.0)  # at 1 %, one of them may pass: the threshold is 98
    assert rate_at([98, 98.5, 99, 120], negative, 0.01) == 0.75
    assert rate_at([98, 98.5, 99, 120], negative, 0.001) == 0.25


def test_precision_by_hand() -> None:
    recall, precision = precision_recall([3, 1], [2, 0])
    assert recall.tolist() == [0.5, 0.5, 1, 1]
    assert precision.tolist() == [1, 0.5, 2 / 3, 0.5]


def test_intervals_hold_the_value_and_draw_whole_groups() -> None:
    random = np.random.default_rng(0)
    positive, negative = random.normal(1, 1, 40), random.normal(0, 1, 30)
    found = figures(positive, negative, draws=200)
    assert found == figures(positive, negative, draws=200)
    one = figures(positive, negative, ["same"] * 40, ["same"] * 30, draws=20)
    for name in FIGURES:
        assert found[name].low < found[name].value < found[name].high
        assert one[name].low == one[name].value == one[name].high == found[name].value
