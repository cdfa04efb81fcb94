"""Figures of every score on every model, and the choice of one by its worst case."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.columns import Columns
from benchmarks.detection.scores import LEARNT, Values, every_score
from memfast.auditing.detection import auc, figures, rate_at
from memfast.auditing.judging.bulk import standing

FEWEST = 5  # captions that replicate: of fewer, a model tells nothing
RATE = 0.01


def judge(models: Sequence[Columns], chosen_on: Sequence[str], rows: float) -> dict[str, Any]:
    """All figures; and the scores of at most `rows` rows that learn from no memorized caption, the
    best first by their worst AUC on the models of `chosen_on`."""
    report: dict[str, Any] = {"chosen_on": [*chosen_on], "models": {}, "scores": {}}
    for columns in models:
        report["models"][columns.model] = about(columns)
        if not enough(columns):
            continue
        for name, (cost, values) in every_score(columns).items():
            entry = report["scores"].setdefault(name, {"rows": {}, "figures": {}})
            entry["rows"][columns.model] = round(cost, 2)
            entry["figures"][columns.model] = of_score(columns, values)
    report["ranking"] = ranking(report, chosen_on, rows)
    return report


def about(columns: Columns) -> dict[str, Any]:
    """What a model's captions are."""
    memorized = columns.kind == "memorized"
    return {
        "captions": {
            str(kind): int((columns.kind == kind).sum()) for kind in np.unique(columns.kind)
        },
        "references": int(columns.reference.sum()),
        "replicate": {
            str(level): f"{int(columns.replicates[rows].sum())} of {int(rows.sum())}"
            for level in np.unique(columns.level[memorized])
            for rows in [memorized & (columns.level == level)]
        },
    }


def enough(columns: Columns) -> bool:
    """Whether a model replicates enough to be judged on."""
    return int(positives(columns).sum()) >= FEWEST


def positives(columns: Columns) -> NDArray[np.bool_]:
    """Captions that replicate, and that nothing was learnt from."""
    return (columns.kind == "memorized") & columns.replicates & ~columns.example


def of_score(columns: Columns, values: Values) -> dict[str, Any]:
    """The figures of one score: means of each noise's own."""
    positive, memorized = positives(columns), columns.kind == "memorized"
    heldout = (columns.kind == "heldout") & ~columns.reference
    found: dict[str, Any] = dict(against(values, positive, heldout))
    first = values[:, 0]
    interval = figures(
        first[positive],
        first[heldout],
        columns.group[positive].tolist(),
        columns.group[heldout].tolist(),
        draws=300,
    )
    found["interval"] = {name: [each.low, each.high] for name, each in interval.items()}
    for kind in ("single", "foreign"):
        if (others := columns.kind == kind).any():
            found[f"against {kind}"] = against(values, positive, others)
    found["levels"] = {
        str(level): against(values, rows, heldout)
        for level in np.unique(columns.level[memorized])
        if (rows := memorized & (columns.level == level) & ~columns.example).any()
    }
    found["flagged"] = flagged(columns, values, heldout)
    return found


def against(values: Values, positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> dict:
    """AUC and true-positive rates."""
    pairs = [(noise[positive], noise[negative]) for noise in values.T]
    return {
        "auc": float(np.mean([auc(*pair) for pair in pairs])),
        "tpr_1": float(np.mean([rate_at(*pair, 0.01) for pair in pairs])),
        "tpr_01": float(np.mean([rate_at(*pair, 0.001) for pair in pairs])),
    }


def flagged(columns: Columns, values: Values, heldout: NDArray[np.bool_]) -> dict[str, float]:
    """The share of held-out captions above the references' threshold of 1 %, and of a list of them
    alone that stands out without references."""
    shares, alone = [], []
    for noise in values.T:
        known = np.sort(noise[columns.reference])[::-1]
        shares.append((noise[heldout] > known[int(RATE * len(known))]).mean())
        stand = standing(noise[heldout], RATE)
        alone.append((stand.above if stand and stand.anything else 0) / heldout.sum())
    return {"by references": float(np.mean(shares)), "alone": float(np.mean(alone))}


def ranking(report: dict[str, Any], models: Sequence[str], rows: float) -> list[str]:
    """Scores by their worst case, the best first."""
    worst = {}
    for name, entry in report["scores"].items():
        held = [entry["figures"][m] for m in models if m in entry["figures"]]
        if len(held) < len(models) or any(entry["rows"][m] > rows for m in models):
            continue
        if any(word in name for word in LEARNT):
            continue
        worst[name] = min(x["auc"] for x in held), min(x["tpr_1"] for x in held)
    return sorted(worst, key=lambda name: worst[name], reverse=True)


def table(report: dict[str, Any], names: Sequence[str]) -> str:
    """Markdown: a row a score, a column a model, and the worst of them."""
    models = [
        name
        for name in report["models"]
        if any(name in x["figures"] for x in report["scores"].values())
    ]
    lines = [
        "| rows | score | " + " | ".join(models) + " | worst |",
        "|---" * (len(models) + 3) + "|",
    ]
    for name in names:
        entry = report["scores"][name]
        held = [entry["figures"].get(model) for model in models]
        shown = [f"{x['auc']:.3f} ({x['tpr_1']:.2f})" if x else "" for x in held]
        known = [x for x in held if x]
        worst = f"{min(x['auc'] for x in known):.3f} ({min(x['tpr_1'] for x in known):.2f})"
        rows = max(entry["rows"].values())
        lines.append(f"| {rows:g} | {name} | " + " | ".join(shown) + f" | {worst} |")
    return "\n".join(lines)
