"""`read_prompts`: any prompt list as a PromptSet that streams."""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from memfast.errors import InputError
from memfast.prompts.columns import BadRow, Columns, checked_text
from memfast.prompts.formats import Row, rows_of
from memfast.prompts.prompt import Prompt, PromptSet, Rejected, make_prompt

OnRejected = Callable[[Rejected], None]


def read_prompts(
    path: str | Path, column: str | None = None, *, on_rejected: OnRejected | None = None
) -> PromptSet:
    """The prompts of a txt, csv, tsv, json, jsonl or parquet file, plain, .gz or .zst, or of a
    Hugging Face dataset folder. They stream: each iteration reads the file again.

    column: the caption's column; found by name when None.
    on_rejected: called with each bad row (no prompt, not UTF-8, over-long), which is then left
    out. When None, the first bad row raises InputError with its line number.
    Raises InputError at once for a missing, unknown, unreadable or empty file or column.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    prompts = PromptSet(lambda: _prompts(path, column, on_rejected), str(path))
    with closing(_prompts(path, column, on_rejected and _ignore)) as found:
        if next(found, None) is None:
            raise InputError(f"{path}: holds no prompt")
    return prompts


def _prompts(path: Path, column: str | None, on_rejected: OnRejected | None) -> Generator[Prompt]:
    folder = (path if path.is_dir() else path.parent).resolve()
    known: dict[tuple[str, ...], Columns] = {}  # rows of JSON need not all have the same keys
    for row in rows_of(path):
        try:
            if isinstance(row.value, BadRow):
                raise row.value
            if isinstance(row.value, dict):
                names = tuple(row.value)
                if names not in known:
                    known[names] = Columns.find(names, column, str(path), required=not known)
                yield known[names].prompt(row.value, row.line, folder)
            elif column is not None:
                raise InputError(f"{path}: has no columns, so no column {column!r}")
            else:
                yield make_prompt(checked_text(row.value), line=row.line)
        except BadRow as reason:
            if on_rejected is None:
                raise InputError(f"{path}, line {row.line}: {reason}") from None
            on_rejected(Rejected(row.line, str(reason), _start(row)))


def _start(row: Row) -> str:
    """What the row begins with, made printable."""
    return repr(row.value)[:80] if not isinstance(row.value, BadRow) else ""


def _ignore(_: Rejected) -> None:
    return None
