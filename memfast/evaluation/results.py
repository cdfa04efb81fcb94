"""From outcomes to rows: rates with intervals, verdicts against controls, every single score."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from memfast.evaluation.protocol import Bench, Outcome
from memfast.measuring.cases import Cases
from memfast.measuring.rates import Interval, mean_interval, verdict
from memfast.measuring.replication import hits
from memfast.measuring.similarity import HEADLINE, METRICS

LINE = ("method", "setting", "repeat", "id", "metric", "score", "copy")  # of scores.csv


@dataclass(frozen=True)
class Row:
    """One method's figures. verdicts: a claim's name -> "shown" or "not shown"."""

    name: str
    lives_in: str
    source: str
    rates: Mapping[str, Mapping[str, Interval]]
    attacked: Mapping[str, Interval]
    attack_control: Mapping[str, Interval]
    reference: Mapping[str, Interval]
    heldout: Mapping[str, Interval]
    singles: Mapping[str, float]
    verdicts: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for summary.json."""
        plain = {
            name: {key: value.as_dict() for key, value in getattr(self, name).items()}
            for name in ("attacked", "attack_control", "reference", "heldout")
        }
        rates = {
            metric: {part: rate.as_dict() for part, rate in parts.items()}
            for metric, parts in self.rates.items()
        }
        return {
            "method": self.name,
            "lives_in": self.lives_in,
            "source": self.source,
            "memorization_rate": rates,
            **plain,
            **self.singles,
            "verdicts": dict(self.verdicts),
        }


def rows(
    outcomes: Mapping[str, Outcome], bench: Bench, located: Sequence[bool] | None = None
) -> list[Row]:
    """A row a method and control, the original first.

    located: which memorized captions the method was made with, where that is known; their rate is
    then told apart. Methods of the operator's pipeline get the original's rate under attack, since
    an attacker with the weights does not run them.
    """
    original = outcomes["original"]
    return [_row(outcome, original, outcomes, bench, located) for outcome in outcomes.values()]


def _row(
    outcome: Outcome,
    original: Outcome,
    outcomes: Mapping[str, Outcome],
    bench: Bench,
    located: Sequence[bool] | None,
) -> Row:
    groups = bench.memorized.groups
    attacked = original if outcome.lives_in == "pipeline" else outcome
    reference = _quality(outcome.reference, original.reference, bench.reference)
    heldout = _quality(outcome.heldout, original.heldout, bench.heldout) if bench.heldout else {}
    rates = {
        metric: {
            part: _rate(metric, values, groups, which)
            for part, which in parts_of(bench, located).items()
        }
        for metric, values in outcome.plain.items()
    }
    under_attack = {m: _rate(m, values, groups) for m, values in attacked.attacked.items()}
    control = {
        m: _rate(m, values, bench.reference.groups) for m, values in attacked.control.items()
    }
    claims = {}
    if outcome.source != "control" and outcome is not original:
        rivals = {"original": original} | {
            name.split(": ", 1)[1]: other
            for name, other in outcomes.items()
            if name.startswith(f"{outcome.name}: ")
        }
        for rival, other in rivals.items():
            claims[f"fewer copies than {rival}"] = all_below(
                {m: rates[m]["all"] for m in rates},
                {m: _rate(m, values, groups) for m, values in other.plain.items()},
            )
        if under_attack:
            claims["fewer copies than original, under attack"] = all_below(
                under_attack,
                {m: _rate(m, values, groups) for m, values in original.attacked.items()},
            )
    return Row(
        outcome.name,
        outcome.lives_in,
        outcome.source,
        rates,
        under_attack,
        control,
        reference,
        heldout,
        {name: fmean(values) for name, values in outcome.singles.items()},
        claims,
    )


def _quality(
    figures: Mapping[str, Sequence[Tensor]],
    original: Mapping[str, Sequence[Tensor]],
    cases: Cases,
) -> dict[str, Interval]:
    """Means over the captions; the loss as a multiple of the original model's mean loss."""
    found = {}
    for name, values in figures.items():
        table = torch.stack(list(values))
        if name == "loss":
            whole = torch.stack(list(original["loss"])).nanmean(0).nanmean()  # as mean_interval
            name, table = "loss_ratio", table / whole
        found[name] = mean_interval(table, cases.groups)
    return found


def _rate(
    metric: str, values: Sequence[Tensor], groups: Sequence[int], which: Tensor | None = None
) -> Interval:
    passed = torch.stack([hits(metric, value) for value in values])
    if which is not None:
        passed = passed.masked_fill(~which, torch.nan)
    return mean_interval(passed, groups, rate=True)


def parts_of(bench: Bench, located: Sequence[bool] | None) -> dict[str, Tensor | None]:
    """Which captions each named part of the memorized set holds; parts that are all or none go."""
    template = torch.tensor([case.template for case in bench.memorized.cases])
    parts: dict[str, Tensor | None] = {"verbatim": ~template, "template": template}
    if located is not None:
        seen = torch.tensor(list(located))
        parts |= {"located": seen, "held-out": ~seen}
    kept = {n: w for n, w in parts.items() if w is not None and w.any() and not w.all()}
    return {"all": None, **kept}


def all_below(treated: Mapping[str, Interval], control: Mapping[str, Interval]) -> str:
    """ "shown" only where every headline metric shows it."""
    metrics = [m for m in HEADLINE if m in treated and treated[m].count] or list(treated)
    answers = {verdict(treated[m], control[m]) for m in metrics}
    return "shown" if answers == {"shown"} else "not shown"


def score_lines(outcomes: Mapping[str, Outcome], bench: Bench) -> Iterator[dict[str, Any]]:
    """Every caption's nearest score, with the metric's name and version, for scores.csv."""
    sets = {
        "plain": bench.memorized.ids,
        "attacked": bench.memorized.ids,
        "control": bench.reference.ids,
    }
    for name, outcome in outcomes.items():
        for setting, ids in sets.items():
            found = getattr(outcome, setting)
            for metric in METRICS:  # always in one order: kept pieces have theirs
                for repeat, values in enumerate(found.get(metric, ())):
                    passed = METRICS[metric].copies(values)
                    for caption, score, copy in zip(
                        ids, values.tolist(), passed.tolist(), strict=True
                    ):
                        if score == score:  # NaN: not tested in this repetition
                            yield {
                                "method": name,
                                "setting": setting,
                                "repeat": repeat,
                                "id": caption,
                                "metric": METRICS[metric].label,
                                "score": round(score, 6),
                                "copy": copy,
                            }
