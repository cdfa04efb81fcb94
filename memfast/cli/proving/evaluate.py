"""memfast evaluate MODEL [--original MODEL] --memorized F --reference F --out DIR"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import CaptionsAndLimits, MaxRejected, captions
from memfast.errors import InputError
from memfast.prompts import BORNE

Memorized = Annotated[Path, typer.Option(help="Captions with their training images.")]
Reference = Annotated[
    Path | None, typer.Option(help="Captions not memorized, with images (demo: its own).")
]
Weights = Annotated[
    list[str] | None, typer.Option(help="NETWORK=FILE, e.g. sscd_disc_large=…, clip=FOLDER.")
]
Metrics = Annotated[str | None, typer.Option(help="Replication metrics, by comma (default: all).")]
Workers = Annotated[
    int,
    typer.Option(
        min=1, max=options.MOST_WORKERS, help="Processes of one core each (with --device cpu)."
    ),
]
Draws = Annotated[int, typer.Option(min=1, help="Noises and timesteps an attack step.")]


@options.with_request
def evaluate(
    model: options.Model,
    out: options.OutFolder,
    memorized: Annotated[
        Path | None, typer.Option(help="Captions with their training images (demo: its own).")
    ] = None,
    reference: Reference = None,
    original: Annotated[
        str | None,
        typer.Option(
            help="The unpruned model, when MODEL is a treated one.", callback=options.model_there
        ),
    ] = None,
    located: Annotated[
        Path | None, typer.Option(help="Captions that MODEL was made with, told apart.")
    ] = None,
    heldout: Annotated[
        Path | None, typer.Option(help="Captions never trained on, for quality (demo: its own).")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare on MODEL, by comma, or 'all'.")
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share that pruning methods remove.")] = 0.1,
    attack: Annotated[bool, typer.Option("--attack", help="Attack every model as well.")] = False,
    attack_steps: Annotated[int, typer.Option(min=1, help="Steps of the attack.")] = 50,
    attack_draws: Draws = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Images a caption and repetition.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of everything.")] = 3,
    limit: CaptionsAndLimits = None,
    max_rejected: MaxRejected = BORNE,
    metrics: Metrics = None,
    weights: Weights = None,
    features: Annotated[
        str, typer.Option(help="Network of FID and KID; named in every figure.")
    ] = "efficientnet-lite0",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    overwrite: options.Overwrite = False,
    workers: Workers = 1,
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Memorization and quality beside honest controls; optionally under attack."""
    from memfast.attacks.embeddings import AttackSettings
    from memfast.cli.console import console, progress, show_table, tell
    from memfast.cli.provenance import write_run
    from memfast.demo import DATA
    from memfast.evaluation.mitigations import MITIGATIONS
    from memfast.evaluation.pieces import evaluation_in
    from memfast.evaluation.results import LINE, score_lines
    from memfast.evaluation.run import evaluate as run
    from memfast.files import write_csv
    from memfast.prompts import inputs, open_list
    from memfast.report.evaluation import evaluation_albums, methods_tables, why_missing
    from memfast.selection import check_fraction

    check_fraction(fraction)
    base = original or model
    own = base == "demo"
    given = parse_weights(weights, base)
    with evaluation_in(out, overwrite) as opened:
        sets = lists(base, memorized, reference, max_rejected)
        if heldout is None and own:
            heldout = DATA / "heldout.jsonl"
        seen, unseen = (
            None if path is None else open_list(path, max_rejected=max_rejected)
            for path in (located, heldout)
        )
        chosen = tuple(MITIGATIONS) if methods == "all" else by_comma(methods)
        how = {"device": device, "dtype": dtype, "attention": attention}
        pipeline = options.open_pipeline(model, **how)
        first = None if original is None else options.open_pipeline(original, **how)
        with progress() as bar:
            result = run(
                pipeline,
                *sets,
                original=first,
                located=seen,
                heldout=unseen,
                methods=tuple(m for m in chosen if m != "none"),
                **request,
                seeds=seeds,
                repeats=repeats,
                seed=seed,
                fraction=fraction,
                limit=captions(limit),
                attack=AttackSettings((attack_steps,), draws=attack_draws) if attack else None,
                metrics=by_comma(metrics) or None,
                weights=given,
                features=features,
                folder=opened,
                overwrite=overwrite,
                workers=workers,
                progress=bar.stage,
            )
        named = {"memorized": sets[0], "reference": sets[1], "located": seen, "heldout": unseen}
        summary = result.summary() | {"inputs": inputs(**named)}
        models = {"model": (model, pipeline)} | ({"original": (base, first)} if first else {})
        with opened.results() as new:
            write_csv(new / "scores.csv", LINE, score_lines(result.outcomes, result.bench))
            write_run(new, "evaluation", summary, models, named, seed, evaluation_albums(result))
        opened.ledger.forget(result.pieces)
    for title, columns, rows in methods_tables(summary):
        show_table(title, columns, rows)
    for name, why in why_missing(result.missing):
        console.print(f"did not run: {name}: {why}", soft_wrap=True, highlight=False)
    show_notes(result.notes)
    console.print(f"wrote {out}/summary.json, scores.csv, report.html", soft_wrap=True)
    tell(summary)


def show_notes(notes: Sequence[str], most: int = 5) -> None:
    """Print the first notes on images, and how many more summary.json holds."""
    from memfast.cli.console import console

    for note in notes[:most]:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    if len(notes) > most:
        console.print(f"… and {len(notes) - most} more notes in summary.json")


def lists(
    model: str, memorized: Path | None, reference: Path | None, max_rejected: int
) -> tuple[Any, Any]:
    """The two prompt lists; the demo model has its own."""
    from memfast.demo import DATA
    from memfast.prompts import open_list

    own = {"--memorized": DATA / "memorized.jsonl", "--reference": DATA / "singles.jsonl"}
    found = []
    for name, path in (("--memorized", memorized), ("--reference", reference)):
        if path is None and model != "demo":
            raise InputError(f"{name}: name a list of captions with images")
        found.append(open_list(path or own[name], max_rejected=max_rejected))
    return found[0], found[1]


def by_comma(text: str | None) -> tuple[str, ...]:
    """The words of a comma-separated option; none where it is not given."""
    words = tuple(word.strip() for word in (text or "").split(",") if word.strip())
    if text is not None and not words:
        raise InputError(f"{text!r}: must be names, by comma")
    return words


def parse_weights(entries: Sequence[str] | None, model: str) -> dict[str, str]:
    """{network: file} of NETWORK=FILE entries; the demo model brings its own CLIP."""
    from memfast.demo import DATA
    from memfast.files import there

    found = {}
    if model == "demo" and (DATA / "clip").is_dir():
        found["clip"] = str(DATA / "clip")
    for entry in entries or ():
        name, separator, path = entry.partition("=")
        if not separator or not path:
            raise InputError(f"--weights {entry}: must be NETWORK=FILE")
        there(path, "file or folder", f"--weights {entry}")
        found[name] = path
    return found
