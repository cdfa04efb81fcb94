"""memfast audit MODEL --prompts F --out DIR"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import Limits, MaxRejected
from memfast.errors import InputError
from memfast.prompts import BORNE

if TYPE_CHECKING:
    from memfast.auditing.outcome import Outcome


Prompts = Annotated[Path, typer.Option(help="Prompt list: txt, csv, jsonl, parquet, .gz, …")]
Reference = Annotated[
    Path | None,
    typer.Option(help="Prompts like these, not memorized: the threshold rests on them."),
]
FalsePositives = Annotated[float, typer.Option(help="False-positive rate of the threshold.")]


@options.with_request
def audit(
    model: options.Model,
    prompts: Prompts,
    out: Annotated[Path, typer.Option("--out", help="Folder; an unfinished audit in it resumes.")],
    reference: Reference = None,
    memorized: Annotated[
        Path | None, typer.Option(help="Memorized examples, for a discriminant.")
    ] = None,
    subspace: Annotated[
        Path | None, typer.Option(help="From `memfast locate`: neurons with a score of their own.")
    ] = None,
    probe: Annotated[
        str, typer.Option(help="first, settle, jump, levels, shared or walk.")
    ] = "jump",
    score: Annotated[
        str,
        typer.Option(
            help="Which flags; also relative, norm, change, energy, located, discriminant, "
            "combined, mean, whitened, likelihood."
        ),
    ] = "distance",
    noises: Annotated[int, typer.Option(min=1, help="Noises a prompt is looked at with.")] = 1,
    fpr: FalsePositives = 0.01,
    path: Annotated[
        str,
        typer.Option(
            help="Noise levels of settle, jump and levels, falling from 1, such as 0.6,0.3."
        ),
    ] = "0.05",
    adaptive: Annotated[
        float | None,
        typer.Option(
            help="With probe levels: the last level for every prompt, the others where that is as "
            "far from the references as this share of them, such as 0.05."
        ),
    ] = None,
    walk_steps: Annotated[int, typer.Option(min=1, help="Steps of probe walk.")] = 7,
    fail_over: Annotated[
        float | None, typer.Option(help="Exit with 3 where more than this share is flagged.")
    ] = None,
    verify: Annotated[float, typer.Option(help="Top share of texts to generate from.")] = 0.0,
    verify_seeds: Annotated[int, typer.Option(min=2, help="Images a verified text.")] = 4,
    index: options.Index = None,
    weights: options.Weights = None,
    column: options.Column = None,
    max_rejected: MaxRejected = BORNE,
    limit: Limits = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[
        int, typer.Option(min=1, max=options.MOST_WORKERS, help="Workers of engine ray.")
    ] = 1,
    address: Annotated[str | None, typer.Option(help="Ray cluster (default: a local one).")] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: blocks I, I+N, … only (I from 0); then `merge`.")
    ] = None,
    block_size: Annotated[int, typer.Option(min=1, help="Texts a block.")] = 256,
    unit: Annotated[
        int | None,
        typer.Option(min=1, help="Prompts a call of the model (8, on a GPU 64); sets bits."),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(min=0, max=options.MOST_WORKERS, help="CPU threads (0: as torch); sets bits."),
    ] = 0,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    graphs: options.Graphs = True,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Find the prompts that the model replicates; resumable, shardable, one pass."""
    from memfast.auditing.looking.settings import Settings
    from memfast.auditing.run import audit as run
    from memfast.cli.console import console, progress
    from memfast.precision import name_of
    from memfast.selection import Subspace

    opened = options.open_index(index, weights)
    place = options.where(model, device, dtype)
    settings = Settings(
        probe=probe,
        noises=noises,
        seed=seed,
        path=parse_path(path),
        adaptive=adaptive,
        walk_steps=walk_steps,
        block_size=block_size,
        unit=unit,
        threads=threads,
        dtype=name_of(place.dtype),
        device=str(place.device),
        graphs=graphs,
        **request,
    )
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
            index=opened,
            overwrite=overwrite,
            progress=bar.stage,
        )
    if outcome is None:
        console.print(f"shard {shard} done; when all are: memfast merge {out}", soft_wrap=True)
        return
    show(outcome)
    check_share(outcome.result.flagged.mean(), fail_over, outcome.footing.basis)


def check_share(share: float, fail_over: float | None, basis: str) -> None:
    """Exit with 3 where a share is over the bound, and where nothing can be said of it."""
    from memfast.cli.console import missed

    if fail_over is None:
        return
    if basis == "none":
        missed(f"--fail-over {fail_over}: there is no verdict; give --reference")
    if share > fail_over:
        missed(f"--fail-over {fail_over}: {share:.4f} of the prompts")


def parse_path(text: str) -> tuple[float, ...]:
    """The numbers of "0.6,0.3"."""
    try:
        levels = tuple(float(level) for level in text.split(","))
    except ValueError:
        levels = ()
    if not all(0 < level < 1 for level in levels) or not levels:
        raise InputError(f"--path {text}: must be numbers between 0 and 1, such as 0.6,0.3")
    return levels


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) of "I/N"."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise InputError(f"--shard {text}: must be I/N with I from 0 to N-1")
    return int(first), int(second)


def show(outcome: "Outcome") -> None:
    """Write report.html, and print the closing table."""
    from memfast.cli.console import console, show_figures, show_table, tell
    from memfast.cli.provenance import add_report, note_provenance
    from memfast.report.audit import detection_rows

    note_provenance(outcome.folder, "audit")
    add_report(outcome.folder)
    rows = detection_rows(outcome.summary)
    if rows:
        columns = ("score", "label", "prompts", "AUC", "TPR at 1 %", "TPR at 0.1 %")
        show_table("detection, with 95 % intervals", columns, rows)
    show_figures("audited", outcome.summary)
    console.print(f"Verdict: {outcome.footing.verdict}", style="bold")
    for sentence in outcome.footing.says:
        console.print(sentence, highlight=False, markup=False)
    if told := outcome.summary.get("labels"):
        console.print(told, highlight=False, markup=False)
    if notes := outcome.summary.get("notes"):
        told = f"note: {len(notes)} training images could not be read; {notes[0]}"
        console.print(told, highlight=False, markup=False)
    console.print(
        f"wrote {outcome.folder}/scores.parquet, flagged.csv, summary.json, report.html",
        highlight=False,
        soft_wrap=True,
    )
    tell(outcome.summary)
