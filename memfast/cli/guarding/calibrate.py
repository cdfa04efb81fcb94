"""memfast calibrate MODEL --reference F --out G.safetensors"""

from pathlib import Path
from typing import Annotated

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.finding.audit import FalsePositives, parse_path
from memfast.cli.lists import Limits, MaxRejected
from memfast.prompts import BORNE


@options.with_request
def calibrate(
    model: options.Model,
    reference: Annotated[
        Path, typer.Option(help="Prompts of the kind that will be asked for, not memorized.")
    ],
    out: options.OutFile,
    look: Annotated[
        str, typer.Option(help="prompt: before the first step; steps: at guidance's first steps.")
    ] = "prompt",
    steps: Annotated[int, typer.Option(min=1, help="Of --look steps.")] = 7,
    probe: Annotated[str, typer.Option(help="Of --look prompt, as of an audit.")] = "levels",
    path: Annotated[str, typer.Option(help="Noise levels of the probe, falling.")] = "0.3,0.05",
    fpr: FalsePositives = 0.01,
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
    """Learn from reference prompts what a guard of the model compares others with."""
    from memfast.auditing.looking.probes import PROBES
    from memfast.auditing.looking.settings import Settings
    from memfast.cli.console import progress
    from memfast.cli.one_file import check_file, finish_file
    from memfast.errors import InputError
    from memfast.guarding.calibrating import calibrate_guard
    from memfast.guarding.calibration import said
    from memfast.precision import name_of
    from memfast.prompts import open_list

    check_file(out, overwrite)
    if probe not in PROBES:
        raise InputError(f"--probe {probe}: must be one of {', '.join(PROBES)}")
    listed = open_list(reference, column, max_rejected)
    pipeline = options.open_pipeline(model, device=device, dtype=dtype, attention=attention)
    settings = Settings(
        probe=probe,
        path=parse_path(path),
        seed=seed,
        dtype=name_of(pipeline.dtype),
        device=str(pipeline.device),
        **request,
    )
    with progress() as bar:
        made = calibrate_guard(
            pipeline, listed, look=look, fpr=fpr, settings=settings, steps=steps, progress=bar.stage
        )
    finish_file(out, made.save, "calibrated", said(made), overwrite)
