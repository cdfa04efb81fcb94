"""memfast prune MODEL --subspace F --out DIR"""

from pathlib import Path
from typing import Annotated

import typer

from memfast.cli import options
from memfast.errors import InputError


def prune(
    model: options.Model,
    subspace: Annotated[Path, typer.Option(help="Subspace file that `memfast locate` wrote.")],
    out: options.OutFolder,
    compensate: Annotated[str, typer.Option(help="mean or none.")] = "none",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """Write the pipeline with the subspace set to zero, in the same shapes."""
    from memfast.cli.console import finish
    from memfast.cli.provenance import write_run
    from memfast.pipelines.loading import denoiser_of, replace_denoiser
    from memfast.pipelines.opening.naming import shown_name
    from memfast.pipelines.saving import check_room, save_pipeline
    from memfast.removing.compensation import check_compensation
    from memfast.removing.masking import check_subspace
    from memfast.removing.masking import prune as run
    from memfast.selection import Subspace

    check_room(out, overwrite)
    check_compensation(compensate)
    selected = Subspace.load(subspace)
    pipeline = options.open_pipeline(model, dtype=dtype)
    check_room(out, overwrite, pipeline)
    dense = denoiser_of(pipeline)
    sites = check_subspace(dense, selected)
    without = [path for path, site in sites.items() if site.contraction.bias is None]
    if compensate == "mean" and without:
        raise InputError(
            f"--compensate mean: {type(dense).__name__} has no bias at {', '.join(without)} to "
            "take it; use none, or `memfast compact`"
        )
    replace_denoiser(pipeline, run(dense, selected, compensate=compensate))
    summary = {"model": shown_name(model), "selects": selected.kind}
    summary |= {"removed": selected.removed, "density": selected.density}

    def add(folder: Path) -> None:
        write_run(folder, "prune", summary, {"result": (out.name, pipeline)})

    save_pipeline(pipeline, out, overwrite, add)
    finish(out, "pruned", summary)
