"""What an audit came to: the files in its folder, and the figures that reports are made of."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from memfast.auditing.calibration import Calibration
from memfast.auditing.inputs import Audited
from memfast.auditing.looking.settings import Settings
from memfast.auditing.results import (
    Labelled,
    Result,
    merged_moments,
    suspicious,
    write_flagged,
    write_table,
)
from memfast.auditing.storing import manifest
from memfast.auditing.verifying import Verified, verify, write_pictures
from memfast.files import atomic_write_json
from memfast.pipelines.identity import versions
from memfast.progress import Stage
from memfast.statistics import NeuronStatistics


@dataclass(frozen=True)
class Outcome:
    """A finished audit. flagged: a row for each flagged text, the most suspicious first.
    verified: what a second look at the first of all texts showed, where one was asked for."""

    folder: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    result: Result
    labelled: Labelled
    flagged: list[dict[str, Any]]
    verified: list[Verified] = field(default_factory=list)


def finish(
    out: Path,
    audited: Audited,
    calibration: Calibration,
    speed: dict[str, int | float] | None = None,
) -> Outcome:
    """Write scores.parquet, flagged.csv, statistics.safetensors and summary.json from the blocks.

    All but the throughput in the summary are the same bits for any way the blocks came about.
    """
    found = manifest.read(out)
    blocks, index = manifest.blocks(out), audited.index
    decision, thresholds = found["decision"], found["thresholds"]
    result = Result.of(blocks, calibration, index, decision["score"], thresholds[decision["score"]])
    write_table(out / "scores.parquet", audited.prompts, result)
    flagged = suspicious(audited.prompts, result, result.flagged)
    write_flagged(out / "flagged.csv", flagged, result.score)
    NeuronStatistics(merged_moments(blocks), _header(found)).save(out / "statistics.safetensors")
    labelled = Labelled.of(audited.prompts, frozenset(calibration.seen))
    summary = {
        "prompts": index.prompts,
        "texts": index.texts,
        "rejected": len(audited.rejected.rows),
        "truncated": int(result.truncated.sum()),
        "not_finite": int((~np.isfinite(result.values)).any(1).sum()),
        "flagged": int(result.flagged.sum()),
        "flagged_texts": len(flagged),
        "probe": found["identity"]["settings"]["probe"],
        "score": result.score,
        "threshold": result.threshold,
        "fpr": decision["fpr"],
        "thresholds": thresholds,
        "reference": found["reference"],
        "made_on": blocks.made_on(),
        "detection": {column: labelled.figures(result, column) for column in result.columns},
        **(speed or {}),
    }
    atomic_write_json(out / "summary.json", summary)
    return Outcome(out, found, summary, result, labelled, flagged)


def second_look(
    outcome: Outcome,
    audited: Audited,
    pipeline: DiffusionPipeline,
    settings: Settings,
    share: float,
    seeds: int,
    stage: Stage,
) -> Outcome:
    """The outcome with the first `share` of all texts verified; writes verified.json, pictures/
    and how many replicate into summary.json."""
    count = math.ceil(share * audited.index.texts)
    first = outcome.result.rank_of_texts(audited.index) <= count
    rows = suspicious(audited.prompts, outcome.result, first)
    advance = stage("verifying", len(rows))
    verified = list(verify(pipeline, rows, seeds, settings, advance))
    write_pictures(outcome.folder / "pictures", verified)
    atomic_write_json(outcome.folder / "verified.json", [item.figures() for item in verified])
    replicating = sum(item.replicates for item in verified)
    summary = outcome.summary | {"verified": len(verified), "replicating": replicating}
    atomic_write_json(outcome.folder / "summary.json", summary)
    return replace(outcome, summary=summary, verified=verified)


def _header(found: dict[str, Any]) -> dict[str, Any]:
    """The header of the merged statistics: their one step is the look at pure noise."""
    identity = found["identity"]
    settings = identity["settings"]
    return {
        "model": identity["model"],
        "scheduler": "audit: noises shared by all prompts",
        "num_inference_steps": settings["num_inference_steps"],
        "guidance_scale": settings["guidance_scale"],
        "seed": settings["seed"],
        "rows": "conditional",
        "row_normalised": False,
        "prompts": identity["texts"],
        "prompts_digest": [identity["prompts"]],
        "versions": versions(),
        "settings": settings,
    }
