"""memfast attack MODEL --memorized F --out DIR"""

from pathlib import Path
from typing import Annotated

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import CaptionsAndLimits, MaxRejected, captions
from memfast.cli.proving.evaluate import Draws, Metrics, Reference, Weights
from memfast.errors import InputError
from memfast.prompts import BORNE


@options.with_request
def attack(
    model: options.Model,
    out: options.OutFolder,
    memorized: Annotated[
        Path | None, typer.Option(help="Captions with the images to search for (demo: its own).")
    ] = None,
    reference: Reference = None,
    steps: Annotated[str, typer.Option(help="Judge after so many steps, by comma.")] = "50",
    starts: Annotated[
        str, typer.Option(help="Where searches begin: prompt, noise, another.")
    ] = "prompt,noise,another",
    draws: Draws = 8,
    learning_rate: Annotated[float, typer.Option(help="Adam's.")] = 0.1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked together.")] = 16,
    seeds: Annotated[int, typer.Option(min=1, help="Images a found embedding is judged on.")] = 3,
    extraction_seeds: Annotated[
        int, typer.Option(min=0, help="Also Carlini's extraction, so many seeds a caption.")
    ] = 0,
    limit: CaptionsAndLimits = None,
    max_rejected: MaxRejected = BORNE,
    metrics: Metrics = None,
    weights: Weights = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    graphs: options.Graphs = True,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Search for embeddings that bring training images back, always beside a control."""
    from memfast.attacks.embeddings import AttackSettings
    from memfast.attacks.run import attack as run
    from memfast.cli.console import console, progress, show_table, tell
    from memfast.cli.provenance import write_run
    from memfast.cli.proving.evaluate import by_comma, lists, parse_weights, show_notes
    from memfast.files import check_replaceable, replace_folder, try_out
    from memfast.prompts import inputs
    from memfast.report.attack import attack_albums, attack_table

    check_replaceable(out, "attack", overwrite)
    try_out(out)
    settings = AttackSettings(parse_steps(steps), learning_rate, draws, seed, batch_size)
    given = parse_weights(weights, model)
    sets = lists(model, memorized, reference, max_rejected)
    pipeline = options.open_pipeline(model, device=device, dtype=dtype, attention=attention)
    with progress() as bar:
        result = run(
            pipeline,
            *sets,
            **request,
            starts=by_comma(starts),
            settings=settings,
            seeds=seeds,
            limit=captions(limit),
            extraction_seeds=extraction_seeds,
            metrics=by_comma(metrics) or None,
            weights=given,
            graphs=graphs,
            progress=bar.stage,
        )
    named = {"memorized": sets[0], "reference": sets[1]}
    summary = result.summary() | {"inputs": inputs(**named)}

    def write(folder: Path) -> None:
        models = {"model": (model, pipeline)}
        write_run(folder, "attack", summary, models, named, seed, attack_albums(result))

    replace_folder(out, write, "attack", overwrite)
    show_table("brought back, with 95 % intervals", *attack_table(summary))
    show_notes(result.notes)
    console.print(f"wrote {out}/summary.json and report.html", soft_wrap=True)
    tell(summary)


def parse_steps(text: str) -> tuple[int, ...]:
    """Ascending step numbers of "50,200"."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"--steps {text}: must be numbers from 1, by comma")
    return tuple(sorted({int(word) for word in words}))
