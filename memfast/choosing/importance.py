"""Rankings of neurons by what they are needed for, from streamed statistics alone."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from memfast.blocks.families import Site
from memfast.errors import InputError
from memfast.statistics import NeuronStatistics


def importance(
    sites: Mapping[str, Site], reference: NeuronStatistics
) -> dict[str, Float[Tensor, " neurons"]]:
    """What share of its block's output variance is a neuron's, over the reference prompts' rows.

    variance · |W|² over the block's sum of it (after An et al., arXiv 2312.11983: with the mean
    folded into the bias, only the variance is lost). The share makes blocks comparable.
    Raises InputError where a site never ran, of which nothing is known.
    """
    for path in sites:
        if not reference.moments[path].count.any():
            raise InputError(
                f"reference: {path} did not run at the first {reference.steps} steps; collect more"
            )
    ranking = {}
    for path, site in sites.items():
        energy = _variance(reference, path) * _output_energy(site)
        ranking[path] = (energy / energy.sum().clamp(min=1e-30)).float()
    return ranking


def _variance(reference: NeuronStatistics, path: str) -> Tensor:
    """Each neuron's variance over all rows of all steps, float64 [neurons]."""
    moments = reference.moments[path]
    return moments.pool().variance[0].cpu()


def _output_energy(site: Site) -> Tensor:
    weight = site.weight.detach()
    return weight.float().square().sum(0).double().cpu()
