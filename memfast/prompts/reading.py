"""`read_prompts`: any prompt list as a PromptSet that streams."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.files import there
from memfast.limits import Limits, current
from memfast.prompts.columns import Columns
from memfast.prompts.prompt import Prompt, PromptSet, make_prompt
from memfast.prompts.rejected import Rejected, RejectedRows
from memfast.prompts.sources.folders import data_files
from memfast.prompts.sources.formats import rows_of
from memfast.prompts.sources.rows import SHOWN, BadRow, Row, Wanted
from memfast.prompts.values import checked_text

OnRejected = Callable[[Rejected], None]
_KINDS_OF_ROW = 1_000  # sets of keys whose columns are remembered


def read_prompts(
    path: str | Path,
    column: str | None = None,
    *,
    on_rejected: OnRejected | None = None,
    limits: Limits | None = None,
) -> PromptSet:
    """The prompts of a txt, csv, tsv, json, jsonl, parquet or arrow file, plain, .gz or .zst, or
    of a Hugging Face dataset folder. They stream: each iteration reads the file again.

    column: the caption's column; found by name when None.
    on_rejected: called with each bad row (no prompt, not UTF-8, over-long), which is then left
    out. When None, the first bad row raises InputError with its line number.
    limits: of memory and sizes; a row beyond one is a bad row. `memfast.limits.current()` if None.
    The set's `notes` count what was passed over in rows that are kept, such as labels of NaN.
    Raises InputError at once for a missing, unknown, unreadable or empty file or column.
    """
    path = there(path, "file or folder")
    wanted = Wanted(column, limits or current())
    notes: dict[str, int] = {}
    prompts = PromptSet(lambda: _prompts(path, wanted, on_rejected, notes), str(path), notes)
    if isinstance(on_rejected, RejectedRows):
        prompts.rejected = on_rejected
    bad: list[Rejected] = []
    first = None if on_rejected is None else lambda row: None if bad else bad.append(row)
    with closing(_prompts(path, wanted, first, {})) as found:
        if next(found, None) is None:
            why = (
                f"; {bad[0].file or 'the file'}, line {bad[0].line}: {bad[0].reason}" if bad else ""
            )
            raise InputError(f"{path}: holds no prompt{why}")
    return prompts


def _prompts(
    path: Path, wanted: Wanted, on_rejected: OnRejected | None, notes: dict[str, int]
) -> Generator[Prompt]:
    """The prompts; `notes` are filled anew at the end."""
    counted: Counter[str] = Counter()
    several = path.is_dir()
    for file in data_files(path, wanted.limits) if several else [path]:
        kinds = _Kinds(file, wanted.column)
        for row in rows_of(file, wanted):
            try:
                yield _prompt(row, file, wanted, kinds, counted)
            except BadRow as reason:
                if on_rejected is None:
                    raise InputError(f"{file}, line {row.line}: {reason}") from None
                inside = file.relative_to(path).as_posix() if several else ""
                on_rejected(Rejected(row.line, str(reason), _start(row), inside))
        kinds.check()
    notes.clear()
    notes.update(counted)


class _Kinds:
    """The columns of each set of keys: rows of JSON need not all have the same ones."""

    def __init__(self, file: Path, column: str | None) -> None:
        self.file, self.column = file, column
        self.folder = file.parent.resolve()
        self.known: dict[tuple[str, ...], Columns] = {}
        self.without: list[BadRow] = []

    def columns(self, row: dict[str, Any]) -> Columns:
        """Raises BadRow for a row without a caption's column, and InputError after many of them."""
        names = tuple(row)
        if names in self.known:
            return self.known[names]
        try:
            found = Columns.find(names, self.column)
        except BadRow as reason:
            self.without.append(reason)
            if len(self.without) == _KINDS_OF_ROW:
                self.check()
                self.without.clear()
            raise
        if len(self.known) < _KINDS_OF_ROW:
            self.known[names] = found
        return found

    def check(self) -> None:
        """Raise InputError when some rows, and none but such, were without the column."""
        if self.without and not self.known:
            raise InputError(f"{self.file}: {self.without[0]}")


def _prompt(row: Row, file: Path, wanted: Wanted, kinds: _Kinds, notes: Counter[str]) -> Prompt:
    if isinstance(row.value, BadRow):
        raise row.value
    if isinstance(row.value, dict):
        columns = kinds.columns(row.value)
        return columns.prompt(row.value, row.line, kinds.folder, wanted.limits, notes)
    if wanted.column is not None:
        raise InputError(f"{file}: has no columns, so no column {wanted.column!r}")
    return make_prompt(checked_text(row.value, wanted.limits), line=row.line)


def _start(row: Row) -> str:
    """What the row begins with, made printable."""
    shown = row.start if row.is_bad else repr(row.value)[:SHOWN]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
