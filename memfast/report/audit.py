"""The page of an audit: what was flagged, and how well that can be told where labels exist."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from memfast.auditing.detection import precision_recall, roc
from memfast.auditing.outcome import Outcome
from memfast.auditing.verifying import Verified
from memfast.report.report import Report

MOST_PICTURES = 100
MOST_ROWS = 2000  # of the table of flagged prompts; flagged.csv has them all
POINTS = np.linspace(0, 1, 101)


def page(outcome: Outcome) -> Report:
    """The report of a finished audit."""
    summary = outcome.summary
    report = Report(
        "Audit",
        f"{summary['prompts']:,} prompts, {summary['texts']:,} different; "
        f"probe {summary['probe']}, score {summary['score']}",
    )
    plain = [(k, v) for k, v in summary.items() if isinstance(v, int | float | str)]
    report.text(f"Verdict: {outcome.footing.verdict}", *outcome.footing.says)
    report.table("Summary", ("figure", "value"), plain)
    report.histogram(
        "Scores",
        _by_label(outcome),
        x_label=str(summary["score"]),
        threshold=outcome.footing.threshold if np.isfinite(outcome.footing.threshold) else None,
    )
    rows = detection_rows(outcome)
    if rows:
        report.table(
            "Detection",
            ("score", "label", "prompts", "AUC", "TPR at 1 %", "TPR at 0.1 %"),
            rows,
            note="Against all prompts labelled as not memorized, less those that calibration saw; "
            "95 % intervals from 1,000 bootstrap draws of whole duplicate groups.",
        )
        _curves(report, outcome)
    if outcome.verified:
        _pictures(report, outcome.verified)
    columns = ("rank", summary["score"], "prompt", "label", "id", "line")
    report.table(
        "Flagged prompts",
        columns,
        [[row[column] for column in columns] for row in outcome.flagged[:MOST_ROWS]],
        note=f"The first {min(MOST_ROWS, len(outcome.flagged)):,} of {len(outcome.flagged):,}; "
        "flagged.csv has all.",
        searchable=True,
    )
    return report


def detection_rows(outcome: Outcome) -> list[list[Any]]:
    """A row for each score and label: AUC and rates with their intervals."""
    return [
        [score, label, figures["positives"]]
        + [_shown(figures[name]) for name in ("auc", "tpr_at_1_percent", "tpr_at_0.1_percent")]
        for score, by_label in outcome.summary["detection"].items()
        for label, figures in by_label.items()
    ]


def _shown(interval: dict[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _by_label(outcome: Outcome) -> dict[str, list[float]]:
    """The deciding score by label; of all prompts where none has one."""
    values, rows = outcome.result.deciding, outcome.labelled.rows
    if not rows:
        return {"prompts": values.tolist()}
    return {label: values[found].tolist() for label, found in sorted(rows.items())}


def _curves(report: Report, outcome: Outcome) -> None:
    values, labelled = outcome.result.deciding, outcome.labelled
    negative = values[labelled.negative]
    roc_series, precision_series = {}, {}
    for label, rows in labelled.positive.items():
        false, true = roc(values[rows], negative)
        last = np.searchsorted(false, POINTS, "right") - 1
        roc_series[label] = true[last].tolist()
        recall, precision = precision_recall(values[rows], negative)
        at = np.searchsorted(recall, POINTS, "left").clip(max=len(recall) - 1)
        precision_series[label] = precision[at].tolist()
    report.curves("ROC", POINTS.tolist(), roc_series, "false positive rate", "true positive rate")
    report.curves("Precision and recall", POINTS.tolist(), precision_series, "recall", "precision")


def _pictures(report: Report, verified: Sequence[Verified]) -> None:
    """What the seeds made of the first prompts, beside the training images where known."""
    seeds = [f"seed {number}" for number in range(len(verified[0].images))]
    report.pictures(
        "Second look",
        ("prompt", "training", *seeds),
        [
            (f"{item.rank}. {item.prompt}: {_told(item)}", [item.own, *item.images])
            for item in verified[:MOST_PICTURES]
        ],
        note=f"Of {len(verified)} prompts, the seeds of "
        f"{sum(item.seeds_agree is True for item in verified)} agree on one picture that other "
        "captions of the list do not make, and an image of "
        f"{sum(item.matches_training is True for item in verified)} matches its training image "
        f"({sum(item.own is not None for item in verified)} have one). "
        "verified.json and pictures/ have them all.",
    )


def _told(item: Verified) -> str:
    """Both verdicts on a prompt."""
    agree = {None: "cannot be compared", True: "agree", False: "do not agree"}[item.seeds_agree]
    if item.own_ssim is None:
        return f"seeds {agree}; no training image"
    match = "matches" if item.matches_training else "does not match"
    return f"seeds {agree}; {match} its training image (SSIM {item.own_ssim:.2f})"
