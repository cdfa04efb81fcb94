"""memfast audit MODEL --prompts F --out DIR"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memfast.cli import options
from memfast.errors import InputError

if TYPE_CHECKING:
    from memfast.auditing.outcome import Outcome


def audit(
    model: options.Model,
    prompts: Annotated[Path, typer.Option(help="Prompt list: txt, csv, jsonl, parquet, .gz, …")],
    out: Annotated[Path, typer.Option("--out", help="Folder; an unfinished audit in it resumes.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="Prompts not memorized, for the threshold (default: own prompts)."),
    ] = None,
    memorized: Annotated[
        Path | None, typer.Option(help="Memorized examples, for a discriminant.")
    ] = None,
    subspace: Annotated[
        Path | None, typer.Option(help="From `memfast locate`: neurons with a score of their own.")
    ] = None,
    probe: Annotated[str, typer.Option(help="first, settle, jump or walk.")] = "jump",
    score: Annotated[
        str,
        typer.Option(
            help="Which flags; also norm, change, energy, located, discriminant, combined."
        ),
    ] = "relative",
    noises: Annotated[int, typer.Option(min=1, help="Noises a prompt is looked at with.")] = 1,
    fpr: Annotated[float, typer.Option(help="False-positive rate of the threshold.")] = 0.01,
    path: Annotated[
        str, typer.Option(help="Noise levels of settle and jump, falling from 1, such as 0.6,0.3.")
    ] = "0.05",
    walk_steps: Annotated[int, typer.Option(min=1, help="Steps of probe walk.")] = 7,
    verify: Annotated[float, typer.Option(help="Top share of texts to generate from.")] = 0.0,
    verify_seeds: Annotated[int, typer.Option(min=2, help="Images a verified text.")] = 4,
    column: options.Column = None,
    max_rejected: Annotated[int, typer.Option(min=0, help="Bad rows that are borne.")] = 1000,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Workers of engine ray.")] = 1,
    address: Annotated[str | None, typer.Option(help="Ray cluster (default: a local one).")] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: blocks I, I+N, … only (I from 0); then `merge`.")
    ] = None,
    block_size: Annotated[int, typer.Option(min=1, help="Texts a block.")] = 256,
    unit: Annotated[int, typer.Option(min=1, help="Prompts a call of the model; sets bits.")] = 8,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads (0: as torch); sets bits.")] = 0,
    batch_size: options.BatchSize = None,
    num_inference_steps: options.InferenceSteps = None,
    guidance_scale: options.Guidance = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """Find the prompts that the model replicates; resumable, shardable, one pass."""
    from memfast.auditing.looking.settings import Settings
    from memfast.auditing.run import audit as run
    from memfast.cli.console import console, progress
    from memfast.selection import Subspace

    place = options.where(model, device, dtype)
    settings = Settings(
        probe=probe,
        noises=noises,
        seed=seed,
        path=parse_path(path),
        walk_steps=walk_steps,
        block_size=block_size,
        unit=unit,
        threads=threads,
        dtype=str(place.dtype).removeprefix("torch."),
        device=str(place.device),
        **options.schedule(num_inference_steps, guidance_scale),
    )
    if reference is None and model == "demo":
        from memfast.demo import DATA

        reference = DATA / "heldout.jsonl"
    part = None if shard is None else parse_shard(shard)
    with progress() as bar:
        outcome = run(
            model,
            prompts,
            out,
            reference=reference,
            memorized=memorized,
            subspace=None if subspace is None else Subspace.load(subspace),
            settings=settings,
            score=score,
            fpr=fpr,
            column=column,
            max_rejected=max_rejected,
            engine=engine,
            shard=part,
            batch_size=batch_size,
            attention=attention,
            workers=workers,
            address=address,
            verify=verify,
            verify_seeds=verify_seeds,
            overwrite=overwrite,
            stage=bar.stage,
        )
    if outcome is None:
        console.print(f"shard {shard} done; when all are: memfast merge {out}", soft_wrap=True)
        return
    show(outcome)


def parse_path(text: str) -> tuple[float, ...]:
    """The numbers of "0.6,0.3"."""
    try:
        return tuple(float(level) for level in text.split(","))
    except ValueError:
        raise InputError(f"--path {text}: must be numbers with commas, such as 0.6,0.3") from None


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) of "I/N"."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise InputError(f"--shard {text}: must be I/N with I from 0 to N-1")
    return int(first), int(second)


def show(outcome: "Outcome") -> None:
    """Write report.html, and print the closing table."""
    from memfast.cli.console import console, show_table
    from memfast.report.audit import detection_rows, page

    page(outcome).write(outcome.folder / "report.html")
    rows = detection_rows(outcome)
    if rows:
        columns = ("score", "label", "prompts", "AUC", "TPR at 1 %", "TPR at 0.1 %")
        show_table("detection, with 95 % intervals", columns, rows)
    plain = {k: v for k, v in outcome.summary.items() if isinstance(v, int | float | str)}
    show_table("audited", ("figure", "value"), plain.items())
    console.print(
        f"wrote {outcome.folder}/scores.parquet, flagged.csv, summary.json, report.html",
        highlight=False,
        soft_wrap=True,
    )
