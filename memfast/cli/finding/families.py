"""memfast families [MODEL]"""

from collections.abc import Sequence
from typing import Annotated

import typer

from memfast.cli import options

RUNS = ("collect", "locate", "prune", "compact", "audit", "evaluate", "attack", "repair")
COLUMNS = ("model", "class", "activation", "sites", "neurons", "% params", "% FLOPs")


def families(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Look into this pipeline instead.")
    ] = None,
) -> None:
    """List the models whose feed-forwards are known, and what works on which pipelines."""
    from memfast.blocks.families.examples import EXAMPLES
    from memfast.blocks.families.figures import FIGURES

    if model is not None:
        _look_into(model)
        return
    rows = []
    for name, example in EXAMPLES.items():
        sites, neurons, parameters, flops = FIGURES[name]
        kind = (name, example.model, example.activation)
        rows.append((*kind, str(sites), f"{neurons:,}", f"{parameters:.1f}", f"{flops:.1f}"))
    _print(COLUMNS, rows)
    typer.echo()
    _kinds()


def _kinds() -> None:
    """Which commands work on which kinds of pipelines; methods of evaluate that do not apply."""
    from memfast.evaluation.mitigations import MITIGATIONS
    from memfast.pipelines.drivers.table import DRIVERS

    rows = []
    for driver in DRIVERS:
        apart = [
            m.name
            for m in MITIGATIONS.values()
            if m.needs_clip_attention and not driver.clip_attention
        ]
        classes = ", ".join(name.removesuffix("Pipeline") for name in driver.pipelines)
        rows.append((driver.kind, classes, ", ".join(apart) or "-", *["yes"] * len(RUNS)))
    _print(("kind", "pipelines", "methods that do not apply", *RUNS), rows)
    typer.echo("Image-to-image, inpainting and ControlNet pipelines of a kind run from text alone.")


def _look_into(model: str) -> None:
    """Every component of a pipeline that has feed-forwards of a known family."""
    from torch import nn

    from memfast.blocks.families import find_sites
    from memfast.blocks.sizes import size_of
    from memfast.errors import InputError

    rows = []
    for name, part in options.open_pipeline(model).components.items():
        if isinstance(part, nn.Module):
            try:
                kinds = ", ".join(sorted({s.family.name for s in find_sites(part).values()}))
            except InputError:
                continue
            size = size_of(part)
            counts = (str(size.sites), f"{size.neurons:,}", f"{100 * size.share:.1f}")
            rows.append((name, type(part).__name__, kinds, *counts))
    _print(("component", "class", "family", *COLUMNS[3:6]), rows)


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Plain columns that no terminal width cuts: three of text, the others of figures."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.ljust(width) if place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())
