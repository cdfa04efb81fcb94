"""locate: from the statistics of two prompt sets to the subspace that memorization uses."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from memfast.errors import InputError
from memfast.models.families import Site, find_sites
from memfast.models.pipelines import fingerprint
from memfast.scores import SCORES
from memfast.selection import Subspace, check_fraction, top_fraction, top_per_row
from memfast.statistics import NeuronStatistics, check_comparable


def locate(
    memorized: NeuronStatistics,
    reference: NeuronStatistics,
    model: nn.Module,
    *,
    rule: str = "neurons",
    fraction: float,
    steps: int | None = None,
    min_steps: int = 1,
    score: str | None = None,
) -> Subspace:
    """The subspace of `model` that the memorized prompts use and the reference prompts do not.

    rule "neurons": the `fraction` of all neurons, ranked over all sites together, whose `score`
    (a name in memfast.scores.SCORES, by default "difference"), averaged over steps, is largest.
    rule "paper": weights of the second linear, by arXiv 2406.18566: in each row the
    int(fraction · neurons) largest |W|·n_memorized, where n_memorized > n_reference, at `min_steps`
    or more steps.
    `steps` uses only the first so many steps of the statistics (all by default).
    Raises InputError for statistics that do not fit each other or the model, and unknown names.
    """
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    check_fraction(fraction)
    check_comparable(memorized, reference)
    if memorized.header.get("model") not in (None, fingerprint(model)):
        raise InputError("memorized: statistics of another model than the one given")
    steps = memorized.steps if steps is None else steps
    if not 1 <= steps <= memorized.steps:
        raise InputError(f"steps must lie between 1 and {memorized.steps}, not {steps}")
    if not 1 <= min_steps <= steps:
        raise InputError(f"min_steps must lie between 1 and {steps}, not {min_steps}")
    sites = find_sites(model)
    masks = RULES[rule](memorized, reference, sites, fraction, steps, min_steps, score)
    kind = "weights" if rule == "paper" else "neurons"
    header = {
        "model": memorized.header.get("model"),
        "rule": rule,
        "fraction": fraction,
        "steps": steps,
        "min_steps": min_steps,
        "memorized": memorized.header,
        "reference": reference.header,
    }
    mean = {site: reference_mean(reference, site) for site in sites}
    return Subspace(**{kind: masks}, mean=mean, header=header)


def reference_mean(reference: NeuronStatistics, site: str) -> Tensor:
    """Each neuron's mean activation over all rows and steps, float32 [neurons]."""
    moments = reference.moments[site]
    weight = moments.count.double() / moments.count.sum().clamp(min=1)
    return (weight @ moments.mean).float()


def _neurons(
    memorized: NeuronStatistics,
    reference: NeuronStatistics,
    sites: dict[str, Site],
    fraction: float,
    steps: int,
    min_steps: int,
    score: str | None,
) -> dict[str, Tensor]:
    name = score or "difference"
    if name not in SCORES:
        raise InputError(f"score must be one of {', '.join(SCORES)}, not {name!r}")
    if min_steps != 1:
        raise InputError(f"min_steps is for rule 'paper'; rule 'neurons' averages, got {min_steps}")
    ranked = {}
    for path, site in sites.items():
        weight_norm = _weight(site).double().norm(dim=0)
        scores = SCORES[name](memorized[path], reference[path], weight_norm)
        ranked[path] = scores[:steps].mean(0)
    return top_fraction(ranked, fraction)


def _paper(
    memorized: NeuronStatistics,
    reference: NeuronStatistics,
    sites: dict[str, Site],
    fraction: float,
    steps: int,
    min_steps: int,
    score: str | None,
) -> dict[str, Tensor]:
    if score is not None:
        raise InputError(f"rule 'paper' has a score of its own; score must be None, not {score!r}")
    masks = {}
    for path, site in sites.items():
        weight = _weight(site).abs()
        ours, theirs = memorized[path].l2_norm.float(), reference[path].l2_norm.float()
        chosen = torch.zeros_like(weight, dtype=torch.int16)
        for step in range(steps):
            top = top_per_row(weight * ours[step], int(fraction * site.neurons))
            chosen += top & (ours[step] > theirs[step])
        masks[path] = chosen >= min_steps
    return masks


def _weight(site: Site) -> Tensor:
    """The neurons' columns of the contracting linear, on the CPU in float32."""
    return site.contraction.weight[:, site.columns].detach().to("cpu", torch.float32)


RULES: dict[str, Callable[..., dict[str, Tensor]]] = {"neurons": _neurons, "paper": _paper}
