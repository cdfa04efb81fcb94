"""The page of an audit: what was flagged, and how well that can be told where labels exist."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from memfast.report import charts
from memfast.report.report import Report, Tone
from memfast.report.stored import Stored

ROWS = 1000  # of the list; flagged.csv has them all
PICTURES = 200
TONES: dict[str, Tone] = {"suspicious": "bad", "nothing stands out": "good", "unsure": "unsure"}
TONES["no verdict"] = "unsure"
POINTS = np.linspace(0, 1, 201)


def page(stored: Stored) -> Report:
    """The report of a finished audit."""
    summary, folder = stored.summary, stored.folder
    page = Report("Audit", f"which of {summary['texts']:,} texts does the model replicate?", folder)
    looked = _second_look(stored)
    footing = summary["footing"]
    page.verdict(TONES[footing["verdict"]], footing["verdict"], *footing["says"])
    page.figure("flagged", summary["flagged_texts"], f"of {summary['texts']:,} texts")
    error, value = footing["error"], footing["threshold"]
    between = f", 95 %: {error[0]:.3g} to {error[1]:.3g}" if error else ""
    page.figure("threshold", value, f"of {summary['score']}, from {footing['basis']}{between}")
    if "verified" not in summary:
        page.figure("match their training image", "not tried", "--verify 0.05 looks")
    else:
        page.figure(
            "match their training image",
            f"{summary['matches_training']} of {summary['with_training_image']}",
            f"{summary['verified']} tried; the seeds of {summary['seeds_agree']} agree",
        )
    _list(page, stored, looked)
    _gallery(page, folder, list(looked.values()))
    _charts(page, stored)
    if rows := detection_rows(summary):
        page.table(
            "Detection",
            ("score", "label", "prompts", "AUC", "TPR at 1 %", "TPR at 0.1 %"),
            rows,
            note="Against all prompts labelled as not memorized, less those that calibration saw; "
            "95 % intervals from 1,000 bootstrap draws of whole duplicate groups.",
        )
    plain = [(k, v) for k, v in summary.items() if isinstance(v, int | float | str)]
    page.facts("Summary", [(k.replace("_", " "), v) for k, v in plain])
    _sources(page, stored)
    return page


def detection_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    """A row for each score and label: AUC and rates with their intervals."""
    return [
        [score, label, figures["positives"]]
        + [_shown(figures[name]) for name in ("auc", "tpr_at_1_percent", "tpr_at_0.1_percent")]
        for score, by_label in summary["detection"].items()
        for label, figures in by_label.items()
    ]


def _shown(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _second_look(stored: Stored) -> dict[str, dict[str, Any]]:
    """What the second look showed, by the prompts' ids."""
    from memfast.files import read_json

    path = stored.folder / "verified.json"
    if "verified" not in stored.summary or not path.is_file():
        return {}
    return {item["id"]: item for item in read_json(path)}


def _list(page: Report, stored: Stored, looked: Mapping[str, Mapping[str, Any]]) -> None:
    """The flagged texts, and what the second look showed of them."""
    import csv

    with open(stored.folder / "flagged.csv", encoding="utf-8", newline="") as handle:
        rows = [row for _, row in zip(range(ROWS), csv.DictReader(handle), strict=False)]
    score, total = stored.summary["score"], stored.summary["flagged_texts"]
    columns = ["rank", score, "prompt", *(["second look"] if looked else []), "label", "id", "line"]
    if not any(row["label"] for row in rows):
        columns.remove("label")
    page.table(
        "Flagged prompts",
        columns,
        [
            [
                *(int(row["rank"]), float(row[score]), row["prompt"]),
                *([_words(looked.get(row["id"]))] if looked else []),
                *([row["label"]] if "label" in columns else []),
                *(row["id"], int(row["line"])),
            ]
            for row in rows
        ],
        note="None is flagged; scores.parquet ranks them all."
        if not rows
        else f"The first {len(rows):,} of {total:,}, the most suspicious first; "
        "flagged.csv has all.",
    )


def _words(item: Mapping[str, Any] | None) -> str:
    """Both verdicts of the second look on a prompt."""
    if item is None:
        return ""
    agree = {None: "cannot be compared", True: "agree", False: "do not agree"}
    seeds = f"seeds {agree[item['seeds_agree']]}"
    if item["own_ssim"] is None:
        return f"{seeds}; no training image"
    match = "matches" if item["matches_training"] else "does not match"
    return f"{seeds}; {match} its training image (SSIM {item['own_ssim']:.2f})"


def _gallery(page: Report, folder: Path, looked: Sequence[Mapping[str, Any]]) -> None:
    """What the seeds made of the first prompts, beside the training images where known."""
    cards = []
    for item in looked[:PICTURES]:
        own = folder / "pictures" / f"{item['rank']:06d}-training.png"
        shots: list[dict[str, Any]] = []
        if own.is_file():
            shots.append({"name": "training image", "file": f"pictures/{own.name}"})
        for seed in itertools.count():
            file = f"pictures/{item['rank']:06d}-{seed}.png"
            if not (folder / file).is_file():
                break
            shots.append({"name": f"seed {seed}", "file": file})
            if item["own_ssim"] is not None:
                shots[-1] |= {"scores": {"ssim": item["ssims"][seed]}, "copy": item["copies"][seed]}
        caption = f"{item['rank']}. {item['prompt']}: {_words(item)}"
        cards.append({"caption": caption, "shots": shots})
    if cards:
        page.gallery(
            "Second look",
            cards,
            note="Seeds agree where half of them or more make one picture that other captions do "
            "not make; COPY: near the training image. verified.json and pictures/ have them all.",
        )


def _charts(page: Report, stored: Stored) -> None:
    """Scores by label beside the reference's, and curves where labels exist."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from memfast.auditing.calibration import Calibration
    from memfast.auditing.detection import precision_recall, roc
    from memfast.auditing.results import Labelled
    from memfast.auditing.storing import manifest

    path, score = stored.folder / "scores.parquet", stored.summary["score"]
    calibration = Calibration.load(
        stored.folder / manifest.CALIBRATION, manifest.of(stored.folder).hash
    )
    with_label = pc.field("label").is_valid()  # of a long list, the others are not read
    table = pq.read_table(path, columns=[score, "label", "group", "prompt"], filters=with_label)
    values = table[score].to_numpy()
    names = [table[name].to_pylist() for name in ("prompt", "label", "group")]
    prompts: Any = (
        SimpleNamespace(text=text, label=label, group=group)
        for text, label, group in zip(*names, strict=True)
    )
    labelled = Labelled.of(prompts, frozenset(calibration.seen))
    by_label = {label: values[found] for label, found in sorted(labelled.rows.items())}
    every = by_label or {"audited": pq.read_table(path, columns=[score])[score].to_numpy()}
    every = {"reference": calibration.column(score).numpy()} | every
    threshold = stored.summary["threshold"]
    shown = {"Scores": charts.histogram(every, score, threshold, "reference")}
    negative = values[labelled.negative]
    found = {label: values[rows] for label, rows in labelled.positive.items() if rows}
    if found and len(negative):
        roc_of, precision_of = {}, {}
        for label, positive in found.items():
            false, true = roc(positive, negative)
            roc_of[label] = (POINTS, true[np.searchsorted(false, POINTS, "right") - 1])
            recall, precision = precision_recall(positive, negative)
            at = np.searchsorted(recall, POINTS, "left").clip(max=len(recall) - 1)
            precision_of[label] = (POINTS, precision[at])
        shown["ROC"] = charts.rates(
            roc_of, "false positive rate", "true positive rate", diagonal=True
        )
        shown["Precision and recall"] = charts.rates(precision_of, "recall", "precision")
        shown["Detection by score, all labels"] = _forest(stored.summary["detection"])
    page.charts("Scores", shown)


def _forest(detection: Mapping[str, Mapping[str, Any]]) -> str:
    kinds = {"AUC": "auc", "TPR at 1 %": "tpr_at_1_percent"}
    rows = []
    for score, by_label in detection.items():
        for figures in list(by_label.values())[:1]:  # all labels together, or the only one
            found = {name: charts.Estimate(**figures[key]) for name, key in kinds.items()}
            rows.append((score, found))
    return charts.forest(rows, "AUC and true positive rate, with 95 % intervals")


def _sources(page: Report, stored: Stored) -> None:
    """Settings and provenance; an audit's manifest holds most of them."""
    identity, source = (stored.json("manifest.json").get(k) or {} for k in ("identity", "prompts"))
    settings = [(k.replace("_", " "), v) for k, v in identity["settings"].items()]
    page.facts("Settings", settings)
    stored.sources(
        page,
        ("model's fingerprint", (identity["model"],)),
        ("prompts", f"{identity['texts']:,} texts of {source.get('path') or 'a list in memory'}"),
        ("their digest", (identity["prompts"],)),
        ("reference's digest", (identity["reference"],)),
        ("seed", str(identity["settings"]["seed"])),
    )
