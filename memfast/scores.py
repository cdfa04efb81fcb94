"""How much a neuron belongs to memorization: one function a score, pure tensors.

Each takes one site's statistics and the L2 norm of each neuron's column of the contracting
linear's weight, and returns [steps, neurons]; larger means more memorizing.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from memfast.statistics import SiteStatistics

Score = Callable[
    [SiteStatistics, SiteStatistics, Float[Tensor, " neurons"]], Float[Tensor, "steps neurons"]
]


def difference(
    memorized: SiteStatistics, reference: SiteStatistics, weight_norm: Float[Tensor, " neurons"]
) -> Float[Tensor, "steps neurons"]:
    """|W| · (n_memorized - n_reference), with n the root mean square over token rows."""
    return weight_norm * (memorized.rms - reference.rms)


def wanda(
    memorized: SiteStatistics, reference: SiteStatistics, weight_norm: Float[Tensor, " neurons"]
) -> Float[Tensor, "steps neurons"]:
    """|W| · n_memorized (Sun et al., arXiv 2306.11695); ignores the reference."""
    return weight_norm * memorized.rms


SCORES: dict[str, Score] = {"difference": difference, "wanda": wanda}
