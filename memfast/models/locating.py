"""locate: from the statistics of two prompt sets to the subspace that memorization uses."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from memfast.errors import InputError
from memfast.models.families import Site, find_sites
from memfast.models.pipelines import fingerprint
from memfast.scores import Score, find_score
from memfast.selection import (
    OVER_STEPS,
    StepCount,
    Subspace,
    check_fraction,
    contrast_of_rows,
    top,
)
from memfast.statistics import NeuronStatistics, check_comparable, shared_prompts

Masks = dict[str, Tensor]


@dataclass
class Request:
    """What to locate, checked; `locate` documents each field."""

    memorized: NeuronStatistics
    reference: NeuronStatistics
    sites: dict[str, Site]
    rule: str
    fraction: float
    steps: int
    min_steps: int
    score: str | None
    per: str
    over_steps: str

    @cached_property
    def scoring(self) -> Score:
        """The score, found by name."""
        quantity = self.memorized.header.get("quantity", "activation")
        return find_score(self.score, quantity, RULES[self.rule].selects)

    @cached_property
    def column_norms(self) -> dict[str, Tensor]:
        """L2 norm of each neuron's column of the contracting linear, float64 [neurons]."""
        return {
            path: torch.linalg.vector_norm(weight_of(site), dim=0, dtype=torch.float64)
            for path, site in self.sites.items()
        }


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
    per: str | None = None,
    over_steps: str | None = None,
) -> Subspace:
    """The subspace of `model` that the memorized prompts use and the reference prompts do not.

    rule "neurons" ranks neurons, and rule "weights" the weights of the second linear, by `score` (a
    name in memfast.scores.SCORES; by default "difference"), and takes the best `fraction` `per`
    "global" (all sites together; default for neurons), "site" or "row" (default for weights).
    rule "paper" is arXiv 2406.18566 to the letter: in each row the int(fraction · neurons) largest
    |W|·n_memorized, where |W|·n_memorized > |W|·n_reference, n the norm over all rows; the paper
    took statistics with rows="both" and row_normalised=True.
    `over_steps` ranks by the "mean" of the score over steps (default, except for "paper"), or
    selects at every step and keeps the "union" (default for "paper"), the "intersection", or what
    at least `min_steps` select ("minimum"; implied by min_steps > 1).
    Equal scores: the earlier site, then the lower index, wins. `steps` uses only the first so many
    steps (all by default). The result carries the reference's mean activation for compensation.

    Raises InputError for statistics that do not fit each other or the model, prompts that stand in
    both sets, and unknown names.
    """
    request = check_request(
        memorized, reference, model, rule, fraction, steps, min_steps, score, per, over_steps
    )
    masks: Masks = {}
    for paths in site_groups(request):
        masks |= combined(request, paths)
    header = {"model": fingerprint(model), "rule": rule, "fraction": fraction}
    header |= {"steps": request.steps, "min_steps": min_steps, "per": request.per, "score": score}
    header |= {"over_steps": request.over_steps}
    header |= {"memorized": _origin(memorized), "reference": _origin(reference)}
    mean = reference_mean(reference)
    return Subspace(**{RULES[rule].selects: masks}, mean=mean, header=header)


def check_request(
    memorized: NeuronStatistics,
    reference: NeuronStatistics,
    model: nn.Module,
    rule: str = "neurons",
    fraction: float = 0.01,
    steps: int | None = None,
    min_steps: int = 1,
    score: str | None = None,
    per: str | None = None,
    over_steps: str | None = None,
) -> Request:
    """`locate`'s arguments with their defaults filled in; raises InputError for what is wrong."""
    _one_of("rule", rule, RULES)
    default = RULES[rule]
    per = default.per[0] if per is None else _one_of("per", per, default.per)
    if over_steps is None:
        over_steps = "minimum" if min_steps > 1 else default.over_steps[0]
    _one_of("over_steps", over_steps, default.over_steps)
    check_fraction(fraction)
    check_comparable(memorized, reference)
    if memorized.header.get("model") not in (None, fingerprint(model)):
        raise InputError("memorized: statistics of another model than the one given")
    sites = find_sites(model)
    if memorized.sites != list(sites):
        raise InputError(
            f"memorized: statistics of other sites than the model's {', '.join(sites)}"
        )
    for name, statistics in (("memorized", memorized), ("reference", reference)):
        if any(int(moments.count.min()) == 0 for moments in statistics.moments.values()):
            raise InputError(f"{name}: statistics of no prompt at all")
    if shared := shared_prompts(memorized, reference):
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise InputError(f"prompts in both memorized and reference: {', '.join(shared[:5])}{more}")
    steps = memorized.steps if steps is None else steps
    if not 1 <= steps <= memorized.steps:
        raise InputError(f"steps must lie between 1 and {memorized.steps}, not {steps}")
    if not 1 <= min_steps <= steps:
        raise InputError(f"min_steps must lie between 1 and {steps}, not {min_steps}")
    if min_steps > 1 and over_steps != "minimum":
        raise InputError(f"min_steps is for over_steps 'minimum', not {over_steps!r}")
    request = Request(
        memorized, reference, sites, rule, fraction, steps, min_steps, score, per, over_steps
    )
    default.check(request)
    return request


def step_masks(request: Request, paths: Sequence[str] | None = None) -> Iterator[Masks]:
    """What each step alone would select, at the sites `paths` (all by default), noisiest first."""
    paths = list(request.sites) if paths is None else paths
    for step in range(request.steps):
        yield RULES[request.rule].select(request, paths, step)


def combined(request: Request, paths: Sequence[str], counted: StepCount | None = None) -> Masks:
    """The masks that all steps make together, at the sites `paths`.

    `counted` holds what `step_masks` gave at every step, where it is known already.
    """
    if request.over_steps == "mean":
        return RULES[request.rule].select(request, paths, None)
    if counted is None:
        counted = StepCount()
        for masks in step_masks(request, paths):
            counted.add(masks)
    needed = {"union": 1, "intersection": request.steps}
    return counted.at_least(needed.get(request.over_steps, request.min_steps))


def site_groups(request: Request) -> list[list[str]]:
    """Sites that must be ranked together: all of them, or each alone, which takes less memory."""
    paths = list(request.sites)
    return [paths] if request.per == "global" else [[path] for path in paths]


def reference_mean(reference: NeuronStatistics) -> dict[str, Tensor]:
    """Each site's mean activations over all rows and steps, float32 [neurons].

    Empty for statistics of gradients or of normalised rows, which say nothing about it.
    """
    header = reference.header
    if header.get("row_normalised") or header.get("quantity", "activation") != "activation":
        return {}
    means = {}
    for path, moments in reference.moments.items():
        weight = moments.count.double() / moments.count.sum().clamp(min=1)
        means[path] = (weight @ moments.mean).float()
    return means


def weight_of(site: Site) -> Tensor:
    """The neurons' columns of the contracting linear, on the CPU in float32."""
    return site.contraction.weight[:, site.columns].detach().to("cpu", torch.float32)


def _one_of(name: str, value: str, legal: Sequence[str] | dict[str, "Rule"]) -> str:
    if value not in legal:
        raise InputError(f"{name} must be one of {', '.join(legal)}, not {value!r}")
    return value


def _origin(statistics: NeuronStatistics) -> dict[str, object]:
    listed = ("prompt_ids", "text_ids")
    return {key: value for key, value in statistics.header.items() if key not in listed}


def _ranked(request: Request, paths: Sequence[str], step: int | None) -> Masks:
    """The best by score, at one step or (None) by its mean over steps."""
    score, scores = request.scoring, {}
    for path in paths:
        contrast = score.contrast(request.memorized[path], request.reference[path])
        value = contrast[: request.steps].mean(0) if step is None else contrast[step]
        if RULES[request.rule].selects == "weights":
            value = weight_of(request.sites[path]).abs() * value.float()
        elif score.weighted:
            value = request.column_norms[path] * value
        scores[path] = value
    return top(scores, request.fraction, request.per)


def _paper(request: Request, paths: Sequence[str], step: int | None) -> Masks:
    masks = {}
    for path in paths:
        ours, theirs = (s[path].l2_norm[step] for s in (request.memorized, request.reference))
        weight = weight_of(request.sites[path])
        masks[path] = contrast_of_rows(weight, ours.float(), theirs.float(), request.fraction)
    return masks


def _check_score(request: Request) -> None:
    request.scoring  # noqa: B018  raises InputError for a name that does not suit


def _check_no_score(request: Request) -> None:
    if request.score is not None:
        raise InputError(f"rule 'paper' has a score of its own; leave out {request.score!r}")
    if not any(int(request.fraction * site.neurons) for site in request.sites.values()):
        raise InputError(f"fraction {request.fraction} is less than one weight a row at every site")


@dataclass(frozen=True)
class Rule:
    """selects: "neurons" or "weights". select: (request, sites, step or None for the mean) ->
    masks. per, over_steps: the legal choices, the default first. check: raises InputError.
    """

    selects: str
    select: Callable[[Request, Sequence[str], int | None], Masks]
    check: Callable[[Request], None]
    per: tuple[str, ...]
    over_steps: tuple[str, ...] = OVER_STEPS


RULES: dict[str, Rule] = {
    "neurons": Rule("neurons", _ranked, _check_score, per=("global", "site")),
    "weights": Rule("weights", _ranked, _check_score, per=("row", "site", "global")),
    "paper": Rule("weights", _paper, _check_no_score, per=("row",), over_steps=OVER_STEPS[1:]),
}
