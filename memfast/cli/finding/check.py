"""memfast check MODEL --prompts F --out DIR: the one question, and a list to act on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.finding.audit import FalsePositives, Prompts, Reference, check_share, show
from memfast.cli.lists import Limits, MaxRejected
from memfast.prompts import BORNE

if TYPE_CHECKING:
    from memfast.auditing.outcome import Outcome
    from memfast.auditing.verifying import Verified

COPIES, AGREES = "copies its training image", "paints one picture"  # these two replicate
SCORES, UNSEEN = "suspicious score only", "suspicious score, not looked at again (--most)"
FINDINGS = (COPIES, AGREES, SCORES, UNSEEN)


@options.with_request
def check(
    model: options.Model,
    prompts: Prompts,
    out: Annotated[Path, typer.Option("--out", help="Folder; an unfinished check in it resumes.")],
    reference: Reference = None,
    fpr: FalsePositives = 0.01,
    most: Annotated[int, typer.Option(min=1, help="Flagged texts to look at again.")] = 100,
    seeds: Annotated[int, typer.Option(min=2, help="Images of each.")] = 4,
    index: options.Index = None,
    weights: options.Weights = None,
    fail_over: Annotated[
        float | None, typer.Option(help="Exit with 3 where more than this share replicates.")
    ] = None,
    column: options.Column = None,
    limit: Limits = None,
    max_rejected: MaxRejected = BORNE,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Which of these prompts does the model copy? Audit, a second look at pictures, a verdict."""
    from memfast.auditing.looking.settings import Settings
    from memfast.auditing.run import audit
    from memfast.cli.console import console, progress
    from memfast.precision import name_of
    from memfast.prompts import open_list

    for listed in (prompts, reference):
        if listed is not None:
            open_list(listed, max_rejected=max_rejected)  # before a model is loaded
    opened = options.open_index(index, weights)
    pipeline: Any = options.open_pipeline(model, device=device, dtype=dtype, attention=attention)
    steps = request["num_inference_steps"] or Settings.walk_steps
    settings = Settings(
        seed=seed,
        dtype=name_of(pipeline.dtype),
        device=str(pipeline.device),
        walk_steps=min(steps, Settings.walk_steps),
        **request,
    )
    how: dict[str, Any] = {"reference": reference, "settings": settings, "fpr": fpr}
    how |= {"column": column, "max_rejected": max_rejected, "batch_size": batch_size}
    how |= {"attention": attention, "verify_seeds": seeds, "index": opened}
    with progress() as bar:
        outcome = audit(pipeline, prompts, out, overwrite=overwrite, progress=bar.stage, **how)
        assured = min(most, len(outcome.flagged)) if outcome else 0
        if outcome and assured:
            share = (assured - 0.5) / outcome.summary["texts"]
            outcome = audit(pipeline, prompts, out, verify=share, progress=bar.stage, **how)
    if outcome is None:
        return
    rows = actions(outcome, prompts)
    names = write_actions(out / "actions.csv", rows)
    replicated = [row for row in rows if row["finding"] in (COPIES, AGREES)]
    show(outcome)
    for finding in FINDINGS:
        count = sum(row["finding"] == finding for row in rows)
        console.print(f"{count:6,} {finding}", highlight=False)
    console.print(f"act on {out}/actions.csv ({', '.join(names)})", soft_wrap=True, highlight=False)
    check_share(len(replicated) / outcome.summary["texts"], fail_over, outcome.footing.basis)


def actions(outcome: "Outcome", prompts: Path) -> list[dict[str, Any]]:
    """A row for each flagged text, surest first: what was found, its figures, its own columns."""
    from memfast.prompts.own import own_cells

    looked = {item.id: item for item in outcome.verified}
    cells = own_cells(prompts, [row["line"] for row in outcome.flagged])
    rows = []
    for row in outcome.flagged:
        item = looked.get(row["id"])
        found = {"finding": finding(item), "rank": row["rank"], "prompt": row["prompt"]}
        found |= {outcome.result.score: row[outcome.result.score], "line": row["line"]}
        found |= {
            name: getattr(item, name, None)
            for name in ("seeds_agree", "matches_training", "copied", "own_ssim", "clique")
        }
        own = cells.get(row["line"], {})
        rows.append(found | {f"your {name}": cell for name, cell in own.items()})
    return sorted(rows, key=lambda row: (FINDINGS.index(row["finding"]), row["rank"]))


def finding(item: "Verified | None") -> str:
    """What the pictures of a flagged text show."""
    if item is None:
        return UNSEEN
    if item.matches_training:
        return COPIES
    return AGREES if item.seeds_agree else SCORES


def write_actions(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    """actions.csv; returns its columns."""
    from memfast.files import write_csv

    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["finding", "prompt"]
    write_csv(path, columns, rows)
    return columns
