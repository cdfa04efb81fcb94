"""The rows of a file, by format: one entry of FORMATS for each. Add a format here."""

from collections.abc import Callable, Iterator
from pathlib import Path

from memfast.errors import InputError, one_line
from memfast.prompts.sources.columnar import columnar_rows
from memfast.prompts.sources.compression import plain_suffix
from memfast.prompts.sources.delimited import csv_rows, tsv_rows
from memfast.prompts.sources.documents import json_rows, jsonl_rows, txt_rows
from memfast.prompts.sources.rows import Row, Wanted

FORMATS: dict[str, Callable[[Path, Wanted], Iterator[Row]]] = {
    ".txt": txt_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".parquet": columnar_rows,
    ".arrow": columnar_rows,
}


def rows_of(path: Path, wanted: Wanted) -> Iterator[Row]:
    """The rows of a file. Raises InputError, with the file, where it cannot be read."""
    reader = FORMATS.get(plain_suffix(path))
    if reader is None:
        raise InputError(
            f"{path}: unknown kind of file; legal: {', '.join(FORMATS)}, with .gz, .zst"
        )
    row, place = None, str(path)
    try:
        for count, row in enumerate(reader(path, wanted), 1):
            if count > wanted.limits.rows:
                raise InputError(f"{path}: more than {wanted.limits.rows} rows (limit rows)")
            yield row
    except InputError:
        raise
    except Exception as error:
        place += f", after line {row.line}" if row else ""
        raise InputError(f"{place}: cannot be read ({one_line(error)})") from error
