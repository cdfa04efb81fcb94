import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from memfast.measuring.rates import mean_interval, unseen_bound, verdict


def test_interval_of_independent_prompts_is_the_percentile_bootstrap():
    values = torch.tensor([1.0] * 30 + [0.0] * 70)
    interval = mean_interval(values, rate=True, draws=20000)
    generator = np.random.default_rng(0)
    means = generator.choice(values.numpy(), (20000, 100)).mean(1)
    assert interval.value == pytest.approx(0.3)
    assert interval.low == pytest.approx(np.quantile(means, 0.025), abs=0.011)
    assert interval.high == pytest.approx(np.quantile(means, 0.975), abs=0.011)


def test_twins_widen_the_interval():
    values = torch.tensor([1.0, 0.0] * 20)
    alone = mean_interval(values)
    twins = mean_interval(torch.cat([values] * 4), [*range(40)] * 4)
    assert twins.value == alone.value
    assert twins.groups == 40
    assert twins.high - twins.low == pytest.approx(alone.high - alone.low, abs=0.02)


@pytest.mark.parametrize("groups", [1, 2, 24, 500])
def test_a_rate_of_zero_is_not_certain(groups):
    exact = binomtest(0, groups).proportion_ci(0.95, method="exact")
    assert unseen_bound(groups) == pytest.approx(exact.high)
    none = mean_interval(torch.zeros(groups), rate=True)
    everything = mean_interval(torch.ones(groups), rate=True)
    assert (none.low, none.high) == (0, pytest.approx(exact.high))
    assert (everything.low, everything.high) == (pytest.approx(1 - exact.high), 1)


def test_repeats_are_averaged_and_unknown_values_left_out():
    values = torch.tensor([[1.0, 0.0, float("nan")], [0.0, 0.0, float("nan")]])
    interval = mean_interval(values)
    assert (interval.value, interval.count, interval.groups) == (0.25, 2, 2)
    nothing = mean_interval(values[:, 2:])
    assert str(nothing) == "unknown"
    assert nothing.as_dict() == {
        "value": None,
        "low": None,
        "high": None,
        "prompts": 0,
        "groups": 0,
    }


def test_overlap_is_not_shown():
    low = mean_interval(torch.zeros(50), rate=True)
    middle = mean_interval(torch.tensor([0.0] * 46 + [1.0] * 4), rate=True)
    high = mean_interval(torch.ones(50), rate=True)
    assert verdict(low, high) == "shown"
    assert verdict(low, middle) == "not shown"
    assert verdict(high, low) == "not shown"


def test_groups_must_match():
    with pytest.raises(ValueError, match="2 for 3 prompts"):
        mean_interval(torch.zeros(3), [0, 1])
