"""memfast collect MODEL --prompts F --out S.safetensors"""

from pathlib import Path
from typing import Annotated

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import Limits, MaxRejected
from memfast.prompts import BORNE


@options.with_request
def collect(
    model: options.Model,
    prompts: Annotated[Path, typer.Option(help="Prompt list: txt, csv, json, jsonl, parquet, …")],
    out: options.OutFile,
    column: options.Column = None,
    steps: options.Steps = None,
    rows: Annotated[str, typer.Option(help="conditional or both.")] = "conditional",
    row_normalised: Annotated[
        bool, typer.Option("--row-normalised", help="Divide each row by its L2 norm (the paper).")
    ] = False,
    prompt_norms: Annotated[
        bool, typer.Option("--prompt-norms", help="Also norms by prompt (scores z and welch).")
    ] = False,
    shared_noise: Annotated[
        bool, typer.Option("--shared-noise", help="Start every prompt from the same noise.")
    ] = False,
    padding: options.Padding = False,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    graphs: options.Graphs = True,
    max_rejected: MaxRejected = BORNE,
    limit: Limits = None,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Run prompts once and write exact statistics of every feed-forward neuron."""
    from memfast.cli.console import progress
    from memfast.cli.one_file import check_file, finish_file
    from memfast.observing.collecting import collect as run
    from memfast.prompts import inputs, open_list

    check_file(out, overwrite)
    prompt_set = open_list(prompts, column, max_rejected)
    total = len(prompt_set)
    pipeline = options.open_pipeline(model, device=device, dtype=dtype, attention=attention)
    with progress() as bar:
        statistics = run(
            pipeline,
            prompt_set,
            steps=steps,
            **request,
            seed=seed,
            batch_size=batch_size,
            rows=rows,
            row_normalised=row_normalised,
            prompt_norms=prompt_norms,
            shared_noise=shared_noise,
            padding=padding,
            graphs=graphs,
            progress=bar.stage("collecting", total),
        )
    summary = {
        "prompts": statistics.header["prompts"],
        "skipped": len(statistics.skipped),
        "sites": len(statistics.sites),
        "steps": statistics.steps,
        "neurons": sum(m.mean.shape[1] for m in statistics.moments.values()),
    }
    details = {"left_out": statistics.skipped, "header": statistics.header}
    details |= {"inputs": inputs(prompts=prompt_set)}
    finish_file(out, statistics.save, "collected", summary | details, overwrite)
