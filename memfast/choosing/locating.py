"""locate: from the statistics of two prompt sets to the subspace that memorization uses."""

from collections.abc import Collection, Iterator, Sequence
from math import inf

from torch import nn

from memfast.blocks.families import find_sites
from memfast.choosing.rules import RULES, Masks, Request
from memfast.errors import InputError, some
from memfast.pipelines.identity import fingerprint
from memfast.scores import SCORES, choose_score
from memfast.selection import StepCount, Subspace, check_fraction
from memfast.statistics import NeuronStatistics, check_comparable, reference_mean, shared_prompts


def locate(
    memorized: NeuronStatistics | None,
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
    beta: float | None = None,
) -> Subspace:
    """The subspace of `model` that the memorized prompts use and the reference prompts do not.

    rule "neurons" ranks neurons, and rule "weights" the weights of the second linear, by `score` (a
    name in memfast.scores.SCORES; by default "difference"), and takes the best `fraction` `per`
    "global" (all sites together; default for neurons), "site" or "row" (default for weights).
    rule "paper" is arXiv 2406.18566 to the letter: in each row the int(fraction · neurons) largest
    |W|·n_memorized, where |W|·n_memorized > |W|·n_reference, n the norm over all rows; the paper
    took statistics with rows="both" and row_normalised=True.
    rule "reference" takes the neurons that the reference prompts need least, by statistics from
    `collect_sensitivity` (or, for models too big to differentiate, from `collect`: variance times
    squared weight, as a share of the block's), and rule "gates" those that `learn_gates` closed;
    for both, `memorized` is None. rule "selective" takes the smallest log S_reference - beta · log
    S_memorized, S the mean square of `collect_sensitivity`; beta is 0.5 by default, and with 0 the
    rule is "reference".
    `over_steps` ranks by the "mean" of the score over steps (default, except for "paper"), or
    selects at every step and keeps the "union" (default for "paper"), the "intersection", or what
    at least `min_steps` select ("minimum"; implied by min_steps > 1).
    Where a site did not run (Wan 2.2 has two models, each for some steps) it selects nothing, and
    the steps at which it did are all of its steps.
    Equal scores: the earlier site, then the lower index, wins. `steps` uses only the first so many
    steps (all by default). The result carries the reference's mean activation for compensation.

    Raises InputError for statistics that do not fit each other or the model, prompts that stand in
    both sets, and unknown names.
    """
    request = check_request(
        memorized, reference, model, rule, fraction, steps, min_steps, score, per, over_steps, beta
    )
    masks: Masks = {}
    for paths in site_groups(request):
        masks |= combined(request, paths)
    header = {"model": fingerprint(model), "rule": rule, "fraction": fraction}
    header |= {"steps": request.steps, "min_steps": min_steps, "per": request.per}
    header |= {"score": request.score, "over_steps": request.over_steps}
    header |= {} if RULES[rule].beta is None else {"beta": request.beta}
    header |= {"memorized": None if memorized is None else _origin(memorized)}
    header |= {"reference": _origin(reference)}
    mean = reference_mean(reference)
    return Subspace(**{RULES[rule].selects: masks}, mean=mean, header=header)


def check_request(
    memorized: NeuronStatistics | None,
    reference: NeuronStatistics,
    model: nn.Module,
    rule: str = "neurons",
    fraction: float = 0.01,
    steps: int | None = None,
    min_steps: int = 1,
    score: str | None = None,
    per: str | None = None,
    over_steps: str | None = None,
    beta: float | None = None,
) -> Request:
    """`locate`'s arguments with their defaults filled in; raises InputError for what is wrong."""
    check_names(rule, fraction, min_steps, score, per, over_steps, beta)
    default = RULES[rule]
    per = per or default.per[0]
    over_steps = over_steps or ("minimum" if min_steps > 1 else default.over_steps[0])
    if not default.contrasts:
        if memorized is not None:
            raise InputError(f"memorized: rule {rule!r} takes none; give None")
        memorized = reference
    elif memorized is None:
        raise InputError(f"memorized: rule {rule!r} needs statistics of memorized prompts")
    check_comparable(memorized, reference)
    quantity = reference.header.get("quantity", "activation")
    if default.quantities:
        _one_of(f"reference: for rule {rule!r}, its quantity", quantity, default.quantities)
    if memorized.header.get("model") not in (None, fingerprint(model)):
        raise InputError("memorized: statistics of another model than the one given")
    sites = find_sites(model)
    if memorized.sites != list(sites):
        raise InputError(
            f"memorized: statistics of other sites than the model's {', '.join(sites)}"
        )
    for name, statistics in (("memorized", memorized), ("reference", reference)):
        if not any(moments.count.any() for moments in statistics.moments.values()):
            raise InputError(f"{name}: statistics of no prompt at all")
    if default.contrasts and (shared := shared_prompts(memorized, reference)):
        raise InputError(f"prompts in both memorized and reference: {some(shared)}")
    widest = max(site.neurons for site in sites.values())
    if per == "row" and int(fraction * widest) == 0:
        raise InputError(f"fraction {fraction} is less than one of {widest} weights a row")
    steps = memorized.steps if steps is None else steps
    if not 1 <= steps <= memorized.steps:
        raise InputError(f"steps must lie between 1 and {memorized.steps}, not {steps}")
    if not 1 <= min_steps <= steps:
        raise InputError(f"min_steps must lie between 1 and {steps}, not {min_steps}")
    if default.scored:
        score = choose_score(score, quantity, default.selects)
    beta = default.beta if beta is None else beta
    return Request(
        memorized,
        reference,
        sites,
        rule,
        fraction,
        steps,
        min_steps,
        score,
        per,
        over_steps,
        beta or 0.0,
    )


def check_names(
    rule: str = "neurons",
    fraction: float = 0.01,
    min_steps: int = 1,
    score: str | None = None,
    per: str | None = None,
    over_steps: str | None = None,
    beta: float | None = None,
) -> None:
    """Raise InputError for what is wrong with `locate`'s arguments whatever the statistics."""
    check_fraction(fraction)
    default = RULES[_one_of("rule", rule, RULES)]
    if score is not None and not default.scored:
        raise InputError(f"rule {rule!r} has a score of its own; leave out {score!r}")
    if score is not None:
        _one_of("score", score, SCORES)
    if per is not None:
        _one_of("per", per, default.per)
    if over_steps is not None:
        _one_of("over_steps", over_steps, default.over_steps)
    if beta is not None and default.beta is None:
        raise InputError(f"beta: rule {rule!r} takes none")
    if beta is not None and not 0 <= beta < inf:
        raise InputError(f"beta must be at least 0, not {beta}")
    if min_steps > 1 and over_steps not in (None, "minimum"):
        raise InputError(f"min_steps is for over_steps 'minimum', not {over_steps!r}")


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
    if request.over_steps == "intersection":
        return {p: n >= max(1, int(request.ran(p).sum())) for p, n in counted.counts.items()}
    return counted.at_least(1 if request.over_steps == "union" else request.min_steps)


def site_groups(request: Request) -> list[list[str]]:
    """Sites that must be ranked together: all of them, or each alone, which takes less memory."""
    paths = list(request.sites)
    return [paths] if request.per == "global" else [[path] for path in paths]


def _one_of(name: str, value: str, legal: Collection[str]) -> str:
    if value not in legal:
        raise InputError(f"{name} must be one of {', '.join(legal)}, not {value!r}")
    return value


def _origin(statistics: NeuronStatistics) -> dict[str, object]:
    listed = ("prompt_ids", "text_ids")
    return {key: value for key, value in statistics.header.items() if key not in listed}
