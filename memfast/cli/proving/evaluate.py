"""memfast evaluate MODEL [--original MODEL] --memorized F --reference F --out DIR"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

import typer

from memfast.cli import options
from memfast.errors import InputError

Memorized = Annotated[Path, typer.Option(help="Captions with their training images.")]
Reference = Annotated[
    Path | None, typer.Option(help="Captions not memorized, with images (demo: its own).")
]
Weights = Annotated[
    list[str] | None, typer.Option(help="NETWORK=FILE, e.g. sscd_disc_large=…, clip=FOLDER.")
]
Metrics = Annotated[str | None, typer.Option(help="Replication metrics, by comma (default: all).")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many captions of each list.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes of one core each (with --device cpu).")
]
Draws = Annotated[int, typer.Option(min=1, help="Noises and timesteps an attack step.")]


def evaluate(
    model: options.Model,
    out: options.OutFolder,
    memorized: Annotated[
        Path | None, typer.Option(help="Captions with their training images (demo: its own).")
    ] = None,
    reference: Reference = None,
    original: Annotated[
        str | None, typer.Option(help="The unpruned model, when MODEL is a treated one.")
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
    limit: Limit = None,
    metrics: Metrics = None,
    weights: Weights = None,
    features: Annotated[
        str, typer.Option(help="Network of FID and KID; named in every figure.")
    ] = "efficientnet-lite0",
    num_inference_steps: options.InferenceSteps = None,
    guidance_scale: options.Guidance = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    overwrite: options.Overwrite = False,
    workers: Workers = 1,
    config: options.Config = None,
) -> None:
    """Memorization and quality beside honest controls; optionally under attack."""
    from memfast.attacks.embeddings import AttackSettings
    from memfast.cli.console import console, progress, show_table
    from memfast.demo import DATA
    from memfast.evaluation.mitigations import MITIGATIONS
    from memfast.evaluation.results import score_lines
    from memfast.evaluation.run import evaluate as run
    from memfast.files import atomic_write_json, check_out
    from memfast.report.evaluation import evaluation_page, methods_tables, why_missing
    from memfast.selection import check_fraction

    check_fraction(fraction)
    unfinished = out / "unfinished"
    goes_on = unfinished.is_dir() and len(list(out.iterdir())) == 1
    check_out(out, overwrite or goes_on)
    base = original or model
    own = base == "demo"
    sets = lists(base, memorized, reference)
    seen = None if located is None else options_prompts(located)
    unseen = options_prompts(heldout or DATA / "heldout.jsonl") if heldout or own else None
    chosen = tuple(MITIGATIONS) if methods == "all" else by_comma(methods)
    given = parse_weights(weights, base)
    opened = {"device": device, "dtype": dtype, "attention": attention}
    pipeline = options.open_pipeline(model, **opened)
    first = None if original is None else options.open_pipeline(original, **opened)
    with progress() as bar:
        result = run(
            pipeline,
            *sets,
            original=first,
            located=seen,
            heldout=unseen,
            methods=tuple(m for m in chosen if m != "none"),
            schedule=options.schedule(num_inference_steps, guidance_scale),
            seeds=seeds,
            repeats=repeats,
            seed=seed,
            fraction=fraction,
            limit=limit,
            attack=AttackSettings((attack_steps,), draws=attack_draws) if attack else None,
            metrics=by_comma(metrics) or None,
            weights=given,
            features=features,
            folder=unfinished,
            overwrite=overwrite,
            workers=workers,
            stage=bar.stage,
        )
    atomic_write_json(out / "summary.json", result.summary())
    write_csv(out / "scores.csv", score_lines(result.outcomes, result.bench))
    evaluation_page(result).write(out / "report.html")
    rmtree(unfinished)
    for title, columns, rows in methods_tables(result):
        show_table(title, columns, rows)
    for name, why in why_missing(result.missing):
        console.print(f"did not run: {name}: {why}", soft_wrap=True, highlight=False)
    show_notes(result.notes)
    console.print(f"wrote {out}/summary.json, scores.csv, report.html", soft_wrap=True)


def show_notes(notes: Sequence[str], most: int = 5) -> None:
    """Print the first notes on images, and how many more summary.json holds."""
    from memfast.cli.console import console

    for note in notes[:most]:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    if len(notes) > most:
        console.print(f"… and {len(notes) - most} more notes in summary.json")


def lists(model: str, memorized: Path | None, reference: Path | None) -> tuple[Any, Any]:
    """The two prompt lists; the demo model has its own."""
    from memfast.demo import DATA

    own = {"--memorized": DATA / "memorized.jsonl", "--reference": DATA / "singles.jsonl"}
    found = []
    for name, path in (("--memorized", memorized), ("--reference", reference)):
        if path is None and model != "demo":
            raise InputError(f"{name}: name a list of captions with images")
        found.append(options_prompts(path or own[name]))
    return found[0], found[1]


def options_prompts(path: Path) -> Any:
    """A prompt list."""
    from memfast.prompts import read_prompts

    return read_prompts(path)


def by_comma(text: str | None) -> tuple[str, ...]:
    """The words of a comma-separated option."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def parse_weights(entries: Sequence[str] | None, model: str) -> dict[str, str]:
    """{network: file} of NETWORK=FILE entries; the demo model brings its own CLIP."""
    from memfast.demo import DATA

    found = {}
    if model == "demo" and (DATA / "clip").is_dir():
        found["clip"] = str(DATA / "clip")
    for entry in entries or ():
        name, separator, path = entry.partition("=")
        if not separator or not path:
            raise InputError(f"--weights {entry}: must be NETWORK=FILE")
        found[name] = path
    return found


def write_csv(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV, atomically; with no row, an empty file."""
    from memfast.files import atomic_write

    rows = list(lines)

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)

    atomic_write(path, write)
