"""The rows of a file, by format: one entry of FORMATS for each. Add a format here."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader, BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.prompts.columns import BadRow
from memfast.prompts.compression import open_bytes, open_text, plain_suffix

LINE_LIMIT = 1 << 20  # characters of one line of text, so that a broken file needs no memory


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a string, a table row as a dict, or the reason why it is neither."""

    value: Any
    line: int


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file or of a dataset folder. Raises InputError where it cannot be read."""
    if path.is_dir():
        yield from _folder(path)
        return
    reader = FORMATS.get(plain_suffix(path))
    if reader is None:
        raise InputError(
            f"{path}: unknown kind of file; legal: {', '.join(FORMATS)}, with .gz, .zst"
        )
    try:
        yield from reader(path)
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, (InputError, BadRow)):
            raise
        raise InputError(f"{path}: cannot be read ({_one_line(error)})") from error


def _lines(handle: TextIOWrapper) -> Iterator[Row]:
    """Lines without their ends; one longer than LINE_LIMIT is passed over and reported."""
    number = 0
    while line := handle.readline(LINE_LIMIT):
        number += 1
        if len(line) == LINE_LIMIT and not line.endswith("\n"):
            while (rest := handle.readline(LINE_LIMIT)) and not rest.endswith("\n"):
                pass
            yield Row(BadRow(f"over-long: more than {LINE_LIMIT} characters in a line"), number)
        elif line.strip():
            yield Row(line.rstrip("\r\n"), number)


def _txt(path: Path) -> Iterator[Row]:
    with open_text(path) as handle:
        yield from _lines(handle)


def _jsonl(path: Path) -> Iterator[Row]:
    with open_text(path) as handle:
        for row in _lines(handle):
            yield row if isinstance(row.value, BadRow) else Row(_json_value(row.value), row.line)


def _json_value(line: str) -> Any:
    try:
        value = json.loads(line)
    except ValueError as error:
        return BadRow(f"not JSON ({_one_line(error)})")
    return value if isinstance(value, (str, dict)) else BadRow("neither a string nor an object")


def _csv(path: Path) -> Iterator[Row]:
    with open_text(path) as handle:
        head = handle.readline(LINE_LIMIT)
        handle.seek(0)
        if not head.strip():
            return
        yield from _table(csv.reader(handle, delimiter=_delimiter(head)))


def _tsv(path: Path) -> Iterator[Row]:
    with open_text(path) as handle:
        yield from _table(csv.reader(handle, delimiter="\t"))


def _table(reader: Any) -> Iterator[Row]:
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Row(BadRow(f"not CSV ({_one_line(error)})"), line)
            continue
        if cells is None:
            return
        if not any(cells):
            continue
        if names is None:
            names = cells
        elif len(cells) > len(names):
            yield Row(BadRow(f"{len(cells)} cells where the head names {len(names)}"), line)
        else:
            yield Row(dict(zip(names, cells, strict=False)), line)


def _delimiter(head: str) -> str:
    """The one of , ; tab | that splits the head of a table into most names."""
    return max(",;\t|", key=lambda mark: len(next(csv.reader([head], delimiter=mark))))


def _json(path: Path) -> Iterator[Row]:
    """A list; a table of columns; the one list of an object; or, by mistake, JSON lines."""
    with open_text(path) as handle:
        text = handle.read()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from _jsonl(path)
        return
    for number, item in enumerate(_json_items(value), 1):
        good = isinstance(item, (str, dict))
        yield Row(item if good else BadRow("neither a string nor an object"), number)


def _json_items(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in value.items()}
        lists = {name: v for name, v in columns.items() if isinstance(v, list)}
        tables = [v for v in lists.values() if v and isinstance(v[0], dict)]
        if tables:  # such as COCO's "annotations": the last table that is not empty
            return tables[-1]
        if lists:
            return [
                dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)
            ]
    raise ValueError("needs a list of prompts, of objects, or an object of columns")


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with open_bytes(path) as handle, ParquetFile(_seekable(handle)) as file:
            yield from _batches(file.iter_batches(batch_size=1024))
    except ArrowException as error:
        raise InputError(f"{path}: not a readable parquet file ({_one_line(error)})") from error


def _seekable(handle: Any) -> Any:
    """Parquet is read from its end: a compressed one is decompressed in memory first."""
    return handle if isinstance(handle, BufferedReader) else BytesIO(handle.read())


def _arrow(path: Path) -> Iterator[Row]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                batches = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                file = pa.ipc.open_file(source)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            yield from _batches(batches)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable arrow file ({_one_line(error)})") from error


def _batches(batches: Any) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for value in batch.to_pylist():
            number += 1
            yield Row(value, number)


def _folder(path: Path) -> Iterator[Row]:
    """The data files of a folder, as `save_to_disk` or a hub snapshot lays them out, in order."""
    for suffix in (".arrow", ".parquet", ".jsonl", ".csv", ".tsv", ".json", ".txt"):
        files = sorted(
            file
            for file in path.rglob("*")
            if plain_suffix(file) == suffix and file.name not in _NOT_DATA and file.is_file()
        )
        if files:
            for file in files:
                yield from rows_of(file)
            return
    raise InputError(f"{path}: a folder without a data file; legal: {', '.join(FORMATS)}")


_NOT_DATA = {"dataset_info.json", "state.json", "dataset_dict.json"}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


FORMATS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": _txt,
    ".csv": _csv,
    ".tsv": _tsv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
