"""memfast generate MODEL --prompts F --out DIR [--guard CALIBRATION]"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import Limits, MaxRejected
from memfast.prompts import BORNE


@options.with_request
def generate(
    model: options.Model,
    prompts: Annotated[Path, typer.Option(help="Prompt list: txt, csv, json, jsonl, parquet, …")],
    out: Annotated[Path, typer.Option("--out", help="Folder; an unfinished run in it goes on.")],
    guard: Annotated[
        Path | None,
        typer.Option(help="What `memfast calibrate` wrote, or an audit's folder."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="note, blank, reword, renew, soften, verify; several by commas."),
    ] = None,
    index: options.Index = None,
    weights: options.Weights = None,
    seeds: Annotated[int, typer.Option(min=1, help="Images a prompt.")] = 1,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    column: options.Column = None,
    max_rejected: MaxRejected = BORNE,
    limit: Limits = None,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Make images of a prompt list, under guard; a line of images.jsonl says what was done."""
    from memfast.cli.console import console, progress, show_figures, tell
    from memfast.cli.provenance import note_provenance
    from memfast.errors import InputError
    from memfast.files import atomic_write_json
    from memfast.guarding.calibration import load_calibration
    from memfast.guarding.generating import generate as run
    from memfast.guarding.guard import Guard
    from memfast.pipelines.drivers.table import driver_of
    from memfast.prompts import inputs, open_list

    if guard is None and (policy or index):
        raise InputError("--policy and --index: need --guard")
    calibration = None if guard is None else load_calibration(guard)
    opened = options.open_index(index, weights)
    listed = open_list(prompts, column, max_rejected)
    loaded = options.open_pipeline(model, device=device, dtype=dtype, attention=attention)
    pipeline: Any = driver_of(loaded).pipeline
    pipeline.set_progress_bar_config(disable=True)
    watching = None
    if calibration is not None:
        watching = Guard(pipeline, calibration, policy, index=opened, seed=seed).attach()
    with progress() as bar:
        counted = run(
            pipeline,
            listed,
            out,
            guard=watching,
            seeds=seeds,
            seed=seed,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=bar.stage,
            **request,
        )
    summary = counted | {"inputs": inputs(prompts=listed), "guard": watching and watching.told}
    atomic_write_json(out / "summary.json", summary)
    note_provenance(out, "generation", {"model": (model, loaded)}, {"prompts": listed}, seed)
    show_figures("generated", summary)
    if watching is not None:
        footing = watching.calibration.footing
        console.print(
            f"The guard flags what scores above {watching.threshold:.3g}: so do at most "
            f"{footing.rate:.2g} of {footing.groups:,} groups of reference captions.",
            highlight=False,
        )
    console.print(
        f"wrote {out}/images, images.jsonl, summary.json", soft_wrap=True, highlight=False
    )
    tell(summary)
