"""memfast compact MODEL --subspace F --out DIR"""

from pathlib import Path
from typing import Annotated

import typer

from memfast.cli import options


def compact(
    model: options.Model,
    subspace: Annotated[Path, typer.Option(help="Subspace file that `memfast locate` wrote.")],
    out: options.OutFolder,
    multiple_of: Annotated[int, typer.Option(min=1, help="Round widths up to a multiple.")] = 8,
    compensate: Annotated[str, typer.Option(help="mean or none.")] = "mean",
    dtype: options.Dtype = "float32",
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """Write a smaller pipeline without the subspace's neurons."""
    from memfast import Subspace
    from memfast.cli.console import finish
    from memfast.files import check_out
    from memfast.models.compact import compact as run
    from memfast.models.families import ffn_sites
    from memfast.models.pipelines import denoiser_name, save_pipeline

    check_out(out, overwrite)
    selected = Subspace.load(subspace)
    pipeline = options.open_pipeline(model, dtype=dtype)
    name = denoiser_name(pipeline)
    dense = getattr(pipeline, name)
    smaller = run(dense, selected, multiple_of=multiple_of, compensate=compensate)
    setattr(pipeline, name, smaller)
    save_pipeline(pipeline, out, overwrite)
    summary = {
        "model": model,
        "neurons_before": sum(ffn_sites(dense).values()),
        "neurons_after": sum(ffn_sites(smaller).values()),
        "parameters_before": sum(p.numel() for p in dense.parameters()),
        "parameters_after": sum(p.numel() for p in smaller.parameters()),
    }
    finish(out, "compacted", summary)
