"""The command line: one file a command; nothing heavy is imported before a command needs it."""

import os
import sys
import warnings
from io import TextIOWrapper
from typing import Any

from memfast.errors import InputError, is_out_of_memory, one_line, printable, refusal
from memfast.processes.stopping import Stopped, stopped_by_signals

BAD_INPUT, INTERNAL, STOPPED = 2, 70, 130  # exit codes
BEGIN_AGAIN = "nothing is half-written; run the same command to begin again"


def main() -> None:
    """Run the command line. It ends with an exit code and at most one line on stderr: 2 for what
    the user can mend, 130 where it was stopped, 70 for anything else, whose traceback is saved."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no error
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    quieten()
    with stopped_by_signals() as asked:
        try:
            from memfast.cli.app import app

            code, line = app(standalone_mode=False) or 0, ""
        except BaseException as error:
            code, line = ended(error, asked.now)
    if line:
        print(printable(" ".join(line.split())), file=sys.stderr)
    sys.exit(code)


def quieten() -> None:
    """Keep other libraries' bars, advice and warnings off the terminal, unless asked for."""
    for name, value in (
        ("TQDM_DISABLE", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DIFFUSERS_VERBOSITY", "error"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def ended(error: BaseException, asked: bool) -> tuple[Any, str]:
    """The exit code, and the line, for what ended a command."""
    if isinstance(error, SystemExit):
        return error.code, ""
    if asked or isinstance(error, Stopped | KeyboardInterrupt):
        told = error.args[0] if isinstance(error, Stopped) and error.args else BEGIN_AGAIN
        return STOPPED, f"stopped: {told}"
    if isinstance(error, InputError):
        return BAD_INPUT, f"error: {error}"
    if hasattr(error, "format_message"):  # click's own, wherever typer keeps it
        told = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        return BAD_INPUT, f"error: {told}" if told else ""  # help was shown
    if is_out_of_memory(error):
        return BAD_INPUT, f"error: out of memory ({one_line(error)}); give it less at once"
    return INTERNAL, f"error: unexpected {type(error).__name__}: {one_line(error)}; {_saved(error)}"


def _saved(error: BaseException) -> str:
    """Where the traceback of an error is now."""
    import tempfile
    import traceback

    from memfast.version import __version__

    head = f"memfast {__version__}, Python {sys.version}\n{sys.argv}\n\n"
    try:
        descriptor, path = tempfile.mkstemp(prefix="memfast-", suffix=".traceback.txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(head + "".join(traceback.format_exception(error)))
    except OSError as refused:
        return f"its traceback could not be saved ({refusal(refused)})"
    return f"its traceback is in {os.path.abspath(path)}"
