"""Rows that were left out: counted, named, and too many of them an error."""

import json
from dataclasses import asdict, dataclass

from memfast.errors import InputError

BORNE = 1000  # bad rows of a list


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that holds no usable prompt: where it stands and why it was left out.

    file: which file of a dataset folder, by its path in it; "" where the list is one file.
    """

    line: int
    reason: str
    start: str
    file: str = ""


class RejectedRows:
    """Takes the bad rows of a list, each once however often it is read; more than `limit` stop the
    run."""

    def __init__(self, limit: int = BORNE) -> None:
        self.limit, self.rows = limit, dict[tuple[str, int], Rejected]()

    def __call__(self, row: Rejected) -> None:
        self.rows.setdefault((row.file, row.line), row)
        if len(self.rows) > self.limit:
            raise InputError(
                f"more than {self.limit} bad rows (--max-rejected); "
                f"{_place(row)}: {row.reason}: {row.start}"
            )

    def named(self, most: int) -> list[str]:
        """The first few: where each stands and why it was left out."""
        return [f"{_place(row)}: {row.reason}" for row in list(self.rows.values())[:most]]

    def text(self) -> str:
        """One JSON object a row, in the order of the lines."""
        rows = self.rows.values()
        return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def _place(row: Rejected) -> str:
    return f"{row.file}, line {row.line}" if row.file else f"line {row.line}"
