"""memfast report DIR"""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished run.")],
) -> None:
    """Write a run's report.html anew, from what the run stored."""
    from memfast.cli.console import console
    from memfast.report.stored import write_report

    console.print(f"wrote {write_report(folder)}", soft_wrap=True, highlight=False)
