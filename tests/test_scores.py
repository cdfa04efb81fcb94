"""Scores against scipy and by hand, every entry of the table."""

import pytest
import torch
from memfast_kernels import column_moments
from scipy.stats import ttest_ind

from memfast.errors import InputError
from memfast.scores import SCORES, choose_score
from memfast.statistics import SiteStatistics

PROMPTS, TOKENS, NEURONS = 5, 8, 7


def activations(seed: int, scale: float = 1.0) -> torch.Tensor:
    """[prompts, tokens, neurons]"""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(PROMPTS, TOKENS, NEURONS, generator=generator)


def site(data: torch.Tensor) -> SiteStatistics:
    norms = data.double().square().mean(1).sqrt()
    return SiteStatistics(
        column_moments(data.flatten(0, 1), backend="reference"),
        column_moments(norms, backend="reference"),
    )


def by_hand(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """The formula of each score, from all the data."""
    a, b = ours.double(), theirs.double()
    rms_a, rms_b = (x.flatten(0, 1).square().mean(0).sqrt() for x in (a, b))
    norms_a, norms_b = (x.square().mean(1).sqrt() for x in (a, b))
    match name:
        case "difference":
            return rms_a - rms_b
        case "wanda":
            return rms_a
        case "z":
            return (norms_a.mean(0) - norms_b.mean(0)) / norms_b.std(0)
        case "welch":
            found = ttest_ind(norms_a.numpy(), norms_b.numpy(), equal_var=False)
            return torch.from_numpy(found.statistic)
        case "gradient":
            return rms_a**2 - rms_b**2
    raise KeyError(f"no outside reference for score {name!r}: add one")


@pytest.mark.parametrize("name", SCORES)
def test_score(name):
    ours, theirs = activations(0, scale=2.0), activations(1)
    found = SCORES[name].contrast(site(ours), site(theirs))
    torch.testing.assert_close(found[0], by_hand(name, ours, theirs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["z", "welch"])
def test_a_neuron_that_never_varies_scores_nothing(name):
    still = torch.ones(PROMPTS, TOKENS, NEURONS)
    assert SCORES[name].contrast(site(2 * still), site(still)).tolist() == [[0.0] * NEURONS]


@pytest.mark.parametrize("name", ["z", "welch"])
def test_a_variance_needs_two_prompts(name):
    with pytest.raises(InputError, match="two prompts"):
        SCORES[name].contrast(site(activations(0)), site(activations(1)[:1]))


def test_choice():
    assert choose_score(None, "activation", "neurons") == "difference"
    assert choose_score(None, "gradient", "neurons") == "gradient"
    assert choose_score("wanda", "activation", "weights") == "wanda"
    for name, quantity, selects in (
        ("z", "activation", "weights"),
        ("gradient", "activation", "neurons"),
        ("wanda", "gradient", "neurons"),
        ("nonsense", "activation", "neurons"),
    ):
        with pytest.raises(InputError, match="score must be one of"):
            choose_score(name, quantity, selects)
    with pytest.raises(InputError, match="no score ranks weights"):
        choose_score(None, "gradient", "weights")
