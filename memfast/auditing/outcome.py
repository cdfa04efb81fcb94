"""What an audit came to: the files in its folder, and the figures that reports are made of."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from memfast.auditing.calibration import Calibration
from memfast.auditing.inputs import Audited
from memfast.auditing.judging.footing import Footing, footing, likeness_of
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
from memfast.auditing.verifying import OTHERS, Verified, pictures_of, verify
from memfast.errors import writing
from memfast.files import Run, atomic_write, atomic_write_json, atomic_write_text
from memfast.measuring.index import ImageIndex
from memfast.pipelines.identity import versions
from memfast.progress import Stage
from memfast.prompts import inputs
from memfast.statistics import NeuronStatistics

SHOWN = 20  # flagged texts in a notebook


@dataclass(frozen=True, repr=False)
class Outcome:
    """A finished audit. footing: on what its threshold rests, and its verdict.
    flagged: a row for each flagged text, the most suspicious first.
    verified: what a second look at the first of all texts showed, where one was asked for."""

    folder: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    footing: Footing
    result: Result
    labelled: Labelled
    flagged: list[dict[str, Any]]
    verified: list[Verified] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Outcome({self.footing.verdict}: {self.footing.says[0]})"

    def _repr_html_(self) -> str:
        """The verdict and the first flagged texts, for a notebook."""
        rows = "".join(
            f"<tr><td>{row['rank']}<td>{row[self.result.score]:.3f}<td>{escape(row['prompt'])}"
            for row in self.flagged[:SHOWN]
        )
        told = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.footing.says)
        head = f"<tr><th>rank<th>{self.result.score}<th>prompt"
        verdict = escape(self.footing.verdict)
        return f"<p><b>{verdict}</b></p>{told}<table>{head}{rows}</table>"


def finish(
    run: Run,
    audited: Audited,
    calibration: Calibration,
    speed: dict[str, int | float] | None = None,
) -> Outcome:
    """Write scores.parquet, flagged.csv, statistics.safetensors and summary.json from the blocks.

    All but the throughput in the summary are the same bits for any way the blocks came about.
    Raises InputError, with the line, where the list is not what was audited.
    """
    out, found = run.folder, run.read()
    blocks, index = manifest.blocks(run, calibration.digest), audited.index
    decision, likeness = found["decision"], likeness_of(found["reference"])
    result = Result.of(blocks, calibration, index, decision["score"])
    footings = {
        name: footing(result.of_texts(name, index), name, calibration, decision["fpr"], likeness)
        for name in result.columns
    }
    rests = footings[result.score]
    result = replace(result, threshold=rests.threshold)
    write_table(out / "scores.parquet", audited, result)
    flagged = suspicious(audited, result, result.flagged)
    write_flagged(out / "flagged.csv", flagged, result.score)
    if audited.rejected:
        atomic_write_text(out / "rejected.jsonl", audited.rejected)
    else:
        (out / "rejected.jsonl").unlink(missing_ok=True)
    NeuronStatistics(merged_moments(blocks), _header(found)).save(out / "statistics.safetensors")
    labelled = Labelled.of(audited, frozenset(calibration.seen))
    whole = [name for name in result.columns if name not in calibration.partial]
    summary = {
        "prompts": index.prompts,
        "texts": index.texts,
        "rejected": len(audited.rejected.splitlines()),
        "truncated": int(result.truncated.sum()),
        "not_finite": int((~np.isfinite([result.column(name) for name in whole])).any(0).sum()),
        "flagged": int(result.flagged.sum()),
        "flagged_texts": len(flagged),
        "probe": found["identity"]["settings"]["probe"],
        "score": result.score,
        "threshold": result.threshold,
        "verdict": rests.verdict,
        "rests on": rests.basis,
        "fpr": decision["fpr"],
        "footing": rests.as_dict(),
        "thresholds": {name: each.threshold for name, each in footings.items()},
        "reference": found["reference"],
        "made_on": blocks.made_on(),
        "inputs": {**inputs(prompts=audited.prompts), **found["inputs"]},
        "detection": {column: labelled.figures(result, column) for column in whole},
        **(speed or {}),
    }
    if calibration.partial:
        column = result.of_texts(calibration.partial[0], index)
        summary["looked_at_all_levels"] = int(np.isfinite(column).sum())
    if labelled.lacking:
        summary["labels"] = labelled.lacking
    atomic_write_json(out / "summary.json", summary)
    return Outcome(out, found, summary, rests, result, labelled, flagged)


def second_look(
    run: Run,
    outcome: Outcome,
    audited: Audited,
    pipeline: DiffusionPipeline,
    settings: Settings,
    share: float,
    seeds: int,
    stage: Stage,
    index_of_images: ImageIndex | None = None,
) -> Outcome:
    """The outcome with the first `share` of all texts verified; writes verified.json, pictures/
    and how many seeds agree and how many match their training image into summary.json."""
    index, texts = audited.index, audited.index.texts
    rank, count = outcome.result.rank_of_texts(index), math.ceil(share * texts)
    usual = np.union1d(_spaced(1, count), _spaced(texts // 2 + 1, texts))
    rows, others = (
        suspicious(audited, outcome.result, chosen)
        for chosen in (rank <= count, np.isin(rank, usual))
    )
    advance = stage("verifying", len(rows) * seeds + len(others))
    verified = list(verify(pipeline, rows, others, seeds, settings, advance, index_of_images))
    pictures = pictures_of(verified)
    run.ledger.add(*pictures)
    with writing(run.folder):
        for name, image in pictures.items():
            (run.folder / name).parent.mkdir(exist_ok=True)
            atomic_write(run.folder / name, partial(image.save, format="PNG"))
    atomic_write_json(outcome.folder / "verified.json", [item.figures() for item in verified])
    summary = outcome.summary | {
        "verified": len(verified),
        "seeds_agree": sum(item.seeds_agree is True for item in verified),
        "with_training_image": sum(item.matches_training is not None for item in verified),
        "matches_training": sum(item.matches_training is True for item in verified),
    }
    if index_of_images is not None:
        summary["copies_in_index"] = sum(item.copied is not None for item in verified)
    if notes := [f"{item.id}: {item.note}" for item in verified if item.note]:
        summary["notes"] = notes
    atomic_write_json(outcome.folder / "summary.json", summary)
    return replace(outcome, summary=summary, verified=verified)


def _spaced(first: int, last: int) -> np.ndarray:
    """At most `OTHERS` ranks from the first to the last, evenly."""
    return np.unique(np.linspace(first, last, OTHERS).round().astype(int))


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
