"""memfast index IMAGES --out DIR --network N"""

from pathlib import Path
from typing import Annotated

import typer

from memfast.cli import options
from memfast.cli.lists import Limits


def index(
    images: Annotated[Path, typer.Argument(help="A folder of training images.")],
    out: options.OutFolder,
    network: Annotated[
        str, typer.Option(help="Its features: sscd_disc_large, sscd_disc_mixup, …")
    ] = "sscd_disc_large",
    weights: options.Weights = None,
    limit: Limits = None,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """Index training images: a guard and an audit find copies of any of them there."""
    from memfast.cli.console import progress, show_figures, tell
    from memfast.measuring.index import index_images

    with progress() as bar:
        how = {"weights": weights, "overwrite": overwrite, "progress": bar.stage}
        made = index_images(images, out, network, **how)
    show_figures("indexed", made)
    tell(made)
