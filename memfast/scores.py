"""How much a neuron belongs to memorization: one table, one pure function a score.

A contrast takes one site's statistics on memorized and on reference prompts and returns
[steps, neurons], larger meaning more memorizing. A weighted score multiplies it by |W|: by the L2
norm of the neuron's column of the contracting linear, or weight by weight.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from memfast.errors import InputError
from memfast.statistics import SiteStatistics

Contrast = Float64[Tensor, "steps neurons"]


def wanda(memorized: SiteStatistics, reference: SiteStatistics) -> Contrast:
    """|W| · n_memorized (Sun et al., arXiv 2306.11695), n the RMS over rows; no reference."""
    return memorized.rms


def difference(memorized: SiteStatistics, reference: SiteStatistics) -> Contrast:
    """|W| · (n_memorized - n_reference), n the root mean square over token rows."""
    return memorized.rms - reference.rms


def z(memorized: SiteStatistics, reference: SiteStatistics) -> Contrast:
    """(n_memorized - mean of the reference) / its deviation, over the prompts' norms.

    0 for a neuron that does not vary among reference prompts. Raises InputError for fewer than two
    reference prompts, or statistics without norms by prompt.
    """
    return _ratio(memorized.norm_mean - reference.norm_mean, reference.norm_variance)


def welch(memorized: SiteStatistics, reference: SiteStatistics) -> Contrast:
    """Welch's t of the prompts' norms (Welch 1947).

    0 for a neuron that varies in neither set. Raises InputError for fewer than two prompts a side,
    or statistics without norms by prompt.
    """
    squared_error = (
        memorized.norm_variance / memorized.prompts + reference.norm_variance / reference.prompts
    )
    return _ratio(memorized.norm_mean - reference.norm_mean, squared_error)


def gradient(memorized: SiteStatistics, reference: SiteStatistics) -> Contrast:
    """Mean over prompts of (activation · gradient of the denoising loss)², memorized - reference.

    The square of the first-order change of the loss when the neuron is removed (Molchanov et al.,
    arXiv 1906.10771).
    """
    return memorized.rms.square() - reference.rms.square()


def _ratio(shift: Tensor, variance: Tensor) -> Tensor:
    return torch.where(variance > 0, shift / variance.sqrt(), 0.0)


@dataclass(frozen=True)
class Score:
    """contrast: the function. weighted: whether |W| multiplies it, without which it cannot rank
    weights. quantity: what the statistics must be of, "activation" (`collect`) or "gradient"
    (`collect_gradients`).
    """

    contrast: Callable[[SiteStatistics, SiteStatistics], Contrast]
    weighted: bool = False
    quantity: str = "activation"


SCORES: dict[str, Score] = {
    "difference": Score(difference, weighted=True),
    "wanda": Score(wanda, weighted=True),
    "z": Score(z),
    "welch": Score(welch),
    "gradient": Score(gradient, quantity="gradient"),
}


def choose_score(name: str | None, quantity: str, selects: str) -> str:
    """`name`, or by default the first score that suits.

    Raises InputError, listing those that suit statistics of `quantity` and can rank what the rule
    `selects` ("neurons" or "weights").
    """
    suited = [
        key
        for key, score in SCORES.items()
        if score.quantity == quantity and (selects == "neurons" or score.weighted)
    ]
    if not suited:
        raise InputError(f"no score ranks {selects} by statistics of {quantity}s")
    if name is not None and name not in suited:
        raise InputError(
            f"score must be one of {', '.join(suited)} to rank {selects} by statistics of "
            f"{quantity}s, not {name!r}"
        )
    return name or suited[0]
