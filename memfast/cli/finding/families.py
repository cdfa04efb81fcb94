"""memfast families [MODEL]"""

from collections.abc import Sequence
from typing import Annotated

import typer

from memfast.cli import options

RUNS = ("collect", "locate", "prune", "compact", "audit", "evaluate", "attack", "repair")
FIGURES = ("sites", "neurons", "% params", "% FLOPs")


def families(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Look into this pipeline instead.")
    ] = None,
) -> None:
    """List the models whose feed-forwards are known, and what works on which pipelines."""
    from memfast.blocks.families.examples import EXAMPLES
    from memfast.blocks.families.figures import FIGURES as KNOWN

    if model is not None:
        _look_into(model)
        return
    rows = []
    for name, example in EXAMPLES.items():
        _, neurons, parameters, flops = KNOWN[name]
        shares = f"{parameters:.1f}", f"{flops:.1f}"
        rows.append((name, example.model, f"{neurons:,}", *shares))
    _print(("model", "class", *FIGURES[1:]), rows)
    typer.echo()
    _kinds()


def _kinds() -> None:
    """The kinds of pipelines, and which methods of evaluate do not apply to all of them."""
    from memfast.evaluation.mitigations import MITIGATIONS
    from memfast.pipelines.drivers.table import DRIVERS

    rows = [
        (driver.kind, ", ".join(name.removesuffix("Pipeline") for name in driver.pipelines))
        for driver in DRIVERS
    ]
    _print(("kind", "pipelines"), rows)
    apart = [method.name for method in MITIGATIONS.values() if method.needs_clip_attention]
    of = [driver.kind for driver in DRIVERS if driver.clip_attention]
    typer.echo(f"\n{', '.join(RUNS)} run on all;")
    typer.echo(f"of evaluate's methods {' and '.join(apart)}")
    typer.echo(f"on {', '.join(of)} alone.")
    typer.echo("Image-to-image, inpainting and ControlNet pipelines run from text alone.")


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
    _print(("component", "class", "family", *FIGURES[:3]), rows)


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Plain columns, of text and then of figures; every row is shorter than 80 characters."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if columns[place] in FIGURES else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())
