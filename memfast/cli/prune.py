"""memfast prune MODEL --subspace F --out DIR"""

from pathlib import Path
from typing import Annotated

import typer

from memfast.cli import options


def prune(
    model: options.Model,
    subspace: Annotated[Path, typer.Option(help="Subspace file that `memfast locate` wrote.")],
    out: options.OutFolder,
    compensate: Annotated[str, typer.Option(help="mean or none.")] = "none",
    dtype: options.Dtype = "float32",
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """Write the pipeline with the subspace set to zero, in the same shapes."""
    from memfast import Subspace
    from memfast.cli.console import finish
    from memfast.files import check_out
    from memfast.models.pipelines import denoiser_name, save_pipeline
    from memfast.models.surgery import prune as run

    check_out(out, overwrite)
    selected = Subspace.load(subspace)
    pipeline = options.open_pipeline(model, dtype=dtype)
    name = denoiser_name(pipeline)
    setattr(pipeline, name, run(getattr(pipeline, name), selected, compensate=compensate))
    save_pipeline(pipeline, out, overwrite)
    figures = {"removed": selected.removed, "density": selected.density}
    finish(out, "pruned", {"model": model, "selects": selected.kind, **figures})
