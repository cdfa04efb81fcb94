"""The cells of a list's rows as its author wrote them, whatever memfast makes of them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from memfast.limits import current
from memfast.prompts.sources.formats import rows_of
from memfast.prompts.sources.rows import Wanted


def own_cells(path: str | Path, lines: Collection[int]) -> dict[int, dict[str, Any]]:
    """By line, the plain cells of those rows of a list that is one file: all columns that its
    reader reads (of parquet and arrow, those that memfast knows). {} for a folder or plain text."""
    path, wanted = Path(path), set(lines)
    if not path.is_file() or not wanted:
        return {}
    return {
        row.line: {
            name: cell
            for name, cell in row.value.items()
            if isinstance(cell, str | int | float | bool) or cell is None
        }
        for row in rows_of(path, Wanted(None, current()))
        if row.line in wanted and isinstance(row.value, dict)
    }
