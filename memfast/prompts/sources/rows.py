"""What readers of all formats share: rows, bad rows, and bounded lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.limits import Limits

SHOWN = 80  # characters of a row that was left out


class BadRow(ValueError):
    """A row without a usable prompt; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a string, a table row as a dict, or the reason why it is neither, with its start."""

    value: Any
    line: int
    start: str = ""

    @classmethod
    def bad(cls, reason: str | BadRow, line: int, text: str = "") -> "Row":
        """A row that is left out, and what it is."""
        return cls(reason if isinstance(reason, BadRow) else BadRow(reason), line, text[:SHOWN])

    @property
    def is_bad(self) -> bool:
        return isinstance(self.value, BadRow)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader is asked for: the caption's column, where named, within limits."""

    column: str | None
    limits: Limits


def lines(handle: TextIOWrapper, path: Path, limits: Limits) -> Iterator[Row]:
    """Lines with their ends. One longer than the limit `line` is passed over and becomes a BadRow;
    raises InputError for one longer than the limit `document`."""
    number = 0
    while text := handle.readline(limits.line):
        number += 1
        if len(text) < limits.line or text.endswith("\n"):
            yield Row(text, number)
            continue
        passed = len(text)
        while (rest := handle.readline(limits.line)) and not rest.endswith("\n"):
            passed += len(rest)
            if passed > limits.document:
                raise InputError(
                    f"{path}, line {number}: more than {limits.document} characters "
                    "(limit document)"
                )
        yield Row.bad(f"over-long: more than {limits.line} characters in a line", number, text)
