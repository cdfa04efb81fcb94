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
    own = outcome.manifest["reference"]["own"]
    plain = [(k, v) for k, v in summary.items() if isinstance(v, int | float | str)]
    report.table(
        "Summary",
        ("figure", "value"),
        plain,
        note="No reference was given: the threshold was set on a sample of the audited prompts "
        "themselves, so about that share is flagged whatever the model memorized."
        if own
        else f"The threshold was set on {outcome.manifest['reference']['prompts']} reference "
        "prompts, crossed over halves.",
    )
    report.histogram(
        "Scores",
        _by_label(outcome),
        x_label=str(summary["score"]),
        threshold=summary["threshold"],
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
            (
                f"{item.rank}. {item.prompt} ({item.clique:.0%} of seeds alike"
                + (f", SSIM {item.own_ssim:.2f} to training)" if item.own is not None else ")"),
                [item.own, *item.images],
            )
            for item in verified[:MOST_PICTURES]
        ],
        note=f"{sum(item.replicates for item in verified)} of {len(verified)} prompts replicate: "
        "half of the seeds or more make one picture. verified.json and pictures/ have them all.",
    )
