"""CSV by the letter, and TSV, whose cells are never quoted.

A row that is not CSV costs its own line alone: reading goes on with the next line, so that a stray
quote does not swallow what follows it.
"""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from memfast.errors import InputError, one_line
from memfast.prompts.sources.compression import open_text
from memfast.prompts.sources.rows import BadRow, Row, Wanted, lines

DELIMITERS = ",;\t|"


class Ahead:
    """Lines, some of which may be put back."""

    def __init__(self, source: Iterator[Row]) -> None:
        self._source, self._back = source, deque[Row]()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return self._back.popleft() if self._back else next(self._source)

    def put_back(self, rows: list[Row]) -> None:
        self._back.extendleft(reversed(rows))


def csv_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """The rows of a table with any of DELIMITERS, as dicts."""
    with open_text(path) as handle:
        source = Ahead(lines(handle, path, wanted.limits))
        first = next(source, None)
        if first is None:
            return
        source.put_back([first])
        mark = _delimiter(first.value) if isinstance(first.value, str) else ","
        yield from _table(_records(source, mark, wanted.limits.row_lines), path, wanted)


def tsv_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """The rows of a table with tabs, as dicts; a quote is a character like others."""
    with open_text(path) as handle:
        split = (
            row
            if row.is_bad
            else Row(row.value.rstrip("\r\n").split("\t") if row.value.strip() else [], row.line)
            for row in lines(handle, path, wanted.limits)
        )
        yield from _table(split, path, wanted)


def _records(source: Ahead, mark: str, most: int) -> Iterator[Row]:
    """Rows as lists of cells; [] for a blank line."""
    while (record := _record(source, mark, most)) is not None:
        yield record


def _record(source: Ahead, mark: str, most: int) -> Row | None:
    taken: list[Row] = []

    def feed() -> Iterator[str]:
        for row in source:
            taken.append(row)
            if isinstance(row.value, BadRow):
                raise row.value
            if len(taken) > most:
                raise BadRow(f"a quote that is not closed within {most} lines (limit row_lines)")
            yield row.value if row.value.strip() or len(taken) > 1 else "\n"

    try:
        cells = next(csv.reader(feed(), delimiter=mark, strict=True), None)
    except (csv.Error, BadRow) as error:
        reason = error if isinstance(error, BadRow) else BadRow(f"not CSV ({one_line(error)})")
        source.put_back(taken[1:])
        return Row.bad(reason, taken[0].line, taken[0].start or taken[0].value)
    return None if cells is None else Row(cells, taken[0].line)


def _table(records: Iterator[Row], path: Path, wanted: Wanted) -> Iterator[Row]:
    names: list[str] | None = None
    for row in records:
        cells = row.value
        if names is None and (isinstance(cells, BadRow) or len(cells) > wanted.limits.cells):
            reason = cells if isinstance(cells, BadRow) else f"{len(cells)} cells (limit cells)"
            raise InputError(f"{path}, line {row.line}: the head cannot be used: {reason}")
        if row.is_bad:
            yield row
        elif cells and names is None:
            names = [name if name not in cells[:at] else "" for at, name in enumerate(cells)]
        elif cells and names is not None:
            if len(cells) == len(names):
                yield Row(dict(zip(names, cells, strict=True)), row.line)
            else:
                reason = f"{len(cells)} cells where the head names {len(names)}"
                yield Row.bad(reason, row.line, repr(cells))


def _delimiter(head: str) -> str:
    """The mark that splits the head of a table into most names."""

    def names(mark: str) -> int:
        try:
            return len(next(csv.reader([head], delimiter=mark)))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=names)
