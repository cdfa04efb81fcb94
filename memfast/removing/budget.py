"""Removing, besides the located neurons, those that reference prompts need least.

A ranking is {site: float [neurons]}, larger = needed more; any will do. `importance` makes one from
streamed statistics alone.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memfast.blocks.families import Site, find_sites
from memfast.choosing.importance import importance
from memfast.errors import InputError
from memfast.pipelines.identity import fingerprint
from memfast.removing.masking import check_subspace
from memfast.selection import Subspace
from memfast.statistics import NeuronStatistics

Ranking = Mapping[str, Float[Tensor, " neurons"]]


def _ones(site: Site, rows: float) -> float:
    return 1.0


def _parameters(site: Site, rows: float) -> float:
    return float(site.parameters_per_neuron)


def _flops(site: Site, rows: float) -> float:
    return 2.0 * rows * site.parameters_per_neuron


COSTS: dict[str, Callable[[Site, float], float]] = {
    "parameters": _parameters,
    "flops": _flops,
    "neurons": _ones,
}


def costs(sites: Mapping[str, Site], of: str, reference: NeuronStatistics) -> dict[str, float]:
    """What a neuron of each site costs, in parameters, FLOPs a step and image, or neurons.

    Raises InputError for another measure.
    """
    if of not in COSTS:
        raise InputError(f"shrink-of must be one of {', '.join(COSTS)}, not {of!r}")
    counted = int(reference.header.get("prompts", 1)) * reference.steps
    rows = {path: float(reference.moments[path].count.sum()) / counted for path in sites}
    return {path: COSTS[of](site, rows[path]) for path, site in sites.items()}


def shrink(
    model: nn.Module,
    reference: NeuronStatistics,
    share: float,
    *,
    of: str = "parameters",
    subspace: Subspace | None = None,
    ranking: Ranking | None = None,
) -> Subspace:
    """The neurons of `model` that reference prompts need least, besides those of `subspace`.

    Together they are a `share` of the feed-forwards' "parameters", "flops" or "neurons"; at equal
    cost the smallest of `ranking` go first (by default `importance`). The reference prompts' means
    go along, for compensation. Raises InputError for a share outside (0, 1), another measure, and
    statistics or a subspace of another model.
    """
    sites = find_sites(model)
    if (taken_from := reference.header.get("model")) not in (None, fingerprint(model)):
        raise InputError(f"reference: statistics of another model (fingerprint {taken_from})")
    none = {path: torch.zeros(site.neurons, dtype=torch.bool) for path, site in sites.items()}
    given = subspace or Subspace(none, header={"model": taken_from, "rule": "shrink"})
    check_subspace(model, given)
    mean = {path: reference.moments[path].pool().mean[0].float().cpu() for path in sites}
    start = Subspace({**none, **given.neurons}, mean=mean, header=given.header)
    return widen(start, ranking or importance(sites, reference), costs(sites, of, reference), share)


def widen(
    subspace: Subspace, ranking: Ranking, cost: Mapping[str, float], share: float
) -> Subspace:
    """The subspace with more neurons, least needed for their cost first, up to a `share` of cost.

    Of every site the most needed neuron stays. Raises InputError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise InputError(f"shrink must lie strictly between 0 and 1, not {share}")
    masks = {path: mask.clone() for path, mask in subspace.neurons.items()}
    budget = share * sum(cost[path] * mask.numel() for path, mask in masks.items())
    budget -= sum(cost[path] * int(mask.sum()) for path, mask in masks.items())
    value, price = [], []
    for path, mask in masks.items():
        per_cost = ranking[path].double() / cost[path]
        per_cost[per_cost.masked_fill(mask, -1.0).argmax()] = float("inf")
        value.append(per_cost.masked_fill(mask, float("inf")))
        price.append(torch.full_like(per_cost, cost[path]))
    values, prices = torch.cat(value), torch.cat(price)
    order = values.argsort(stable=True)
    order = order[values[order].isfinite()]
    chosen = order[prices[order].cumsum(0) <= budget]
    more = torch.zeros_like(values, dtype=torch.bool)
    more[chosen] = True
    parts = more.split([mask.numel() for mask in masks.values()])
    masks = {path: mask | part for (path, mask), part in zip(masks.items(), parts, strict=True)}
    header = {**subspace.header, "shrink": share}
    return Subspace(masks, mean=subspace.mean, header=header)
