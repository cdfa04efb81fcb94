"""The command line: one file a command; nothing heavy is imported before a command needs it."""

import sys
from typing import Any

import typer

from memfast.cli.app import app
from memfast.errors import InputError

_UsageError: Any = typer.BadParameter.mro()[2]  # click's ClickException, wherever typer keeps it


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    try:
        status = app(standalone_mode=False)
    except InputError as error:
        _stop(str(error))
    except _UsageError as error:
        _stop(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    else:
        sys.exit(status or 0)


def _stop(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
