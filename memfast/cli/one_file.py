"""The commands that write one file, and its summary beside it: both or none.

The summary comes first: a run that was killed before the file knows it as its own and goes on.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memfast.cli.console import finish, summary_beside
from memfast.cli.provenance import this_call
from memfast.errors import InputError, writing
from memfast.files import near, read_record, try_out, write_record

KIND, FORMAT = "summary", 1


def check_file(path: Path, overwrite: bool) -> None:
    """Raise InputError where `path` cannot be written, or it or a summary of it is there (unless
    `overwrite`; the summary alone may be this command's own)."""
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; name a file")
    there = [each for each in (path, summary_beside(path)) if each.exists()]
    if there and not overwrite and (path in there or not _is_own(there[0])):
        raise InputError(f"--out {path}: {there[0]} exists; name another or pass --overwrite")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}{near(path.parent)}")
    try_out(path)


def finish_file(
    out: Path,
    save: Callable[[Path], object],
    title: str,
    summary: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Write `summary` beside what `save` writes as `out`, and print it. Raises InputError where
    `check_file` does by now, and for a full disk."""
    check_file(out, overwrite)
    told = summary_beside(out)

    def tell_of_it() -> None:
        write_record(told, KIND, FORMAT, summary, this_call())

    if out.exists():  # an old file never has a new one's summary
        with writing(told):
            told.unlink(missing_ok=True)
        save(out)
        tell_of_it()
    else:
        tell_of_it()
        try:
            save(out)
        except BaseException:
            told.unlink(missing_ok=True)
            raise
    finish(out, title, summary)


def _is_own(path: Path) -> bool:
    """Whether a summary is what this very command writes."""
    try:
        read_record(path, KIND, FORMAT, this_call())
    except InputError:
        return False
    return True
