"""The rules by which neurons or weights are chosen: one table, one function a rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from memfast.blocks.families import Site
from memfast.choosing.importance import importance
from memfast.scores import SCORES
from memfast.selection import OVER_STEPS, contrast_of_rows, top
from memfast.statistics import NeuronStatistics

FAINTEST = 1e-30  # of a squared sensitivity: it has a logarithm
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
    beta: float = 0.0

    def ran(self, path: str) -> Bool[Tensor, " steps"]:
        """At which steps a site ran at all."""
        counts = [each.moments[path].count for each in (self.memorized, self.reference)]
        return (counts[0] * counts[1])[: self.steps] > 0

    @cached_property
    def column_norms(self) -> dict[str, Tensor]:
        """L2 norm of each neuron's column of the contracting linear, float64 [neurons]."""
        return {
            path: torch.linalg.vector_norm(weight_of(site), dim=0, dtype=torch.float64)
            for path, site in self.sites.items()
        }


def weight_of(site: Site) -> Tensor:
    """The neurons' columns of the contracting linear, on the CPU in float32."""
    return site.weight.detach().to("cpu", torch.float32)


def _ranked(request: Request, paths: Sequence[str], step: int | None) -> Masks:
    """The best by score, at one step or (None) by its mean over steps."""
    score, scores = SCORES[str(request.score)], {}
    for path in paths:
        contrast = score.contrast(request.memorized[path], request.reference[path])
        ran = request.ran(path)
        value = contrast[: request.steps][ran].mean(0) if step is None else contrast[step]
        if RULES[request.rule].selects == "weights":
            value = weight_of(request.sites[path]).abs() * value.float()
        elif score.weighted:
            value = request.column_norms[path] * value
        idle = not ran.any() if step is None else not ran[step]
        scores[path] = torch.full_like(value, float("-inf")) if idle else value
    chosen = top(scores, request.fraction, request.per)
    return {path: mask & scores[path].isfinite() for path, mask in chosen.items()}


def _paper(request: Request, paths: Sequence[str], step: int | None) -> Masks:
    masks = {}
    for path in paths:
        ours, theirs = (s[path].l2_norm[step] for s in (request.memorized, request.reference))
        weight = weight_of(request.sites[path])
        masks[path] = contrast_of_rows(weight, ours.float(), theirs.float(), request.fraction)
    return masks


def _least_needed(request: Request, paths: Sequence[str], step: int | None) -> Masks:
    """What the reference prompts need least, at one step or (None) over all.

    Activations tell of all steps together only: the same at each.
    """
    if request.reference.header.get("quantity", "activation") == "activation":
        needed = importance({path: request.sites[path] for path in paths}, request.reference)
    else:
        squares = {path: request.reference[path].rms.square() for path in paths}
        needed = {p: v.mean(0) if step is None else v[step] for p, v in squares.items()}
    return top({path: -value for path, value in needed.items()}, request.fraction, request.per)


def _selective(request: Request, paths: Sequence[str], step: int | None) -> Masks:
    """What the reference prompts need least for how much the memorized ones need it: the least
    log S_reference - beta · log S_memorized, S the mean square of the sensitivity."""
    ranking = {}
    for path in paths:
        squares = [s[path].rms.square() for s in (request.reference, request.memorized)]
        needed, used = (
            (v.mean(0) if step is None else v[step]).double().clamp(min=FAINTEST).log()
            for v in squares
        )
        ranking[path] = request.beta * used - needed
    return top(ranking, request.fraction, request.per)


@dataclass(frozen=True)
class Rule:
    """selects: "neurons" or "weights". select: (request, sites, step or None for the mean) ->
    masks. per, over_steps: the legal choices, the default first. scored: whether it takes a score.
    quantities: the statistics that it reads (any, where empty). contrasts: whether it needs those
    of memorized prompts. beta: the weight of those, where the rule takes one.
    """

    selects: str
    select: Callable[[Request, Sequence[str], int | None], Masks]
    per: tuple[str, ...]
    over_steps: tuple[str, ...] = OVER_STEPS
    scored: bool = True
    quantities: tuple[str, ...] = ()
    contrasts: bool = True
    beta: float | None = None

    @property
    def by_need(self) -> bool:
        """Whether it asks what may go (and its damage may be bounded), not what was used."""
        return bool(self.quantities)


RULES: dict[str, Rule] = {
    "neurons": Rule("neurons", _ranked, per=("global", "site")),
    "weights": Rule("weights", _ranked, per=("row", "site", "global")),
    "paper": Rule("weights", _paper, per=("row",), over_steps=OVER_STEPS[1:], scored=False),
    "reference": Rule(
        "neurons",
        _least_needed,
        per=("global", "site"),
        over_steps=("mean",),
        scored=False,
        quantities=("sensitivity", "activation"),
        contrasts=False,
    ),
    "selective": Rule(
        "neurons",
        _selective,
        per=("global", "site"),
        over_steps=("mean",),
        scored=False,
        quantities=("sensitivity",),
        beta=0.5,
    ),
    "gates": Rule(
        "neurons",
        _least_needed,
        per=("global", "site"),
        over_steps=("mean",),
        scored=False,
        quantities=("gate",),
        contrasts=False,
    ),
}
