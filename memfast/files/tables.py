"""CSV for people: a spreadsheet takes no cell of it for a formula."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memfast.files.atomic import atomic_write_text

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, with an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table of these columns, whole or not at all; a row's other entries are left out."""
    text = io.StringIO()
    writer = csv.writer(text)  # with lines that end as RFC 4180 has it, so that \r is quoted too
    writer.writerow(map(safe_cell, columns))
    writer.writerows([safe_cell(row.get(name)) for name in columns] for row in rows)
    atomic_write_text(path, text.getvalue())
