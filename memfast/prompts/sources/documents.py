"""JSON: a document read whole, or one value a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memfast.errors import InputError, one_line
from memfast.prompts.sources.compression import open_text, whole
from memfast.prompts.sources.rows import SHOWN, BadRow, Row, Wanted, lines


def txt_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """One string a line; blank lines are none."""
    with open_text(path) as handle:
        for row in lines(handle, path, wanted.limits):
            if row.is_bad:
                yield row
            elif row.value.strip():
                yield Row(row.value.rstrip("\r\n"), row.line)


def jsonl_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """One string or object a line."""
    for row in txt_rows(path, wanted):
        yield row if row.is_bad else Row(_value(row.value, wanted), row.line, row.value[:SHOWN])


def json_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """A list; a table of columns; the one list of an object; or, by mistake, JSON lines."""
    content = whole(path, wanted.limits)
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > wanted.limits.values:
        raise InputError(f"{path}: more than {wanted.limits.values} values (limit values)")
    try:
        document = json.loads(content.decode("utf-8-sig", "surrogateescape"))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from jsonl_rows(path, wanted)
        return
    for number, item in enumerate(_items(document), 1):
        yield Row(_usable(item, wanted), number)


def _value(line: str, wanted: Wanted) -> Any:
    try:
        return _usable(json.loads(line), wanted)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON ({one_line(error)})")


def _usable(value: Any, wanted: Wanted) -> Any:
    if not isinstance(value, (str, dict)):
        return BadRow("neither a string nor an object")
    if isinstance(value, dict) and len(value) > wanted.limits.cells:
        return BadRow(f"{len(value)} cells, at most {wanted.limits.cells} (limit cells)")
    return value


def _items(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in value.items()}
        lists = {name: v for name, v in columns.items() if isinstance(v, list)}
        tables = [v for v in lists.values() if v and isinstance(v[0], dict)]
        if tables:  # such as COCO's "annotations": the last table that is not empty
            return tables[-1]
        if len({len(column) for column in lists.values()}) > 1:
            raise ValueError("its columns are of different lengths")
        if lists:
            rows = zip(*lists.values(), strict=True)
            return [dict(zip(lists, cells, strict=True)) for cells in rows]
    raise ValueError("needs a list of prompts, of objects, or an object of columns")
