"""How much a reader takes before it refuses: one table, every entry of which can be set."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any

from memfast.errors import InputError


def _at_most(value: int, what: str) -> Any:
    return field(default=value, metadata={"what": what})


@dataclass(frozen=True)
class Limits:
    """The largest inputs that are read; docs/trust.md holds the same table."""

    line: int = _at_most(1 << 20, "characters of a line of text, or of a cell")
    row_lines: int = _at_most(8, "lines that one CSV row may span")
    cells: int = _at_most(1_000, "cells of a row")
    caption: int = _at_most(10_000, "characters of a caption")
    word: int = _at_most(1_000, "characters of an id, a label or a group")
    place: int = _at_most(4_096, "characters of an image's path or URL")
    document: int = _at_most(1 << 27, "bytes, unpacked, of what must be read whole")
    values: int = _at_most(8_000_000, "values in one JSON document")
    rows: int = _at_most(20_000_000, "rows of a list")
    files: int = _at_most(10_000, "data files of a dataset folder")
    memory: int = _at_most(1 << 30, "bytes that reading a parquet or arrow file may take")
    pixels: int = _at_most(50_000_000, "pixels of an image")
    image_bytes: int = _at_most(1 << 28, "bytes of an image file")

    def changed(self, settings: Iterable[str]) -> "Limits":
        """These limits with some set anew, each as "pixels=2e8". Raises InputError."""
        names = [entry.name for entry in fields(self)]
        new: dict[str, int] = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            try:
                value = float(text)
            except ValueError:
                value = 0.0
            if name not in names or not 1 <= value < 2**63:
                raise InputError(
                    f"--limit {setting}: must be NAME=NUMBER from 1, NAME one of {', '.join(names)}"
                )
            new[name] = int(value)
        return replace(self, **new)


DEFAULT = Limits()
_current: ContextVar[Limits] = ContextVar("limits", default=DEFAULT)


def current() -> Limits:
    """The limits of what is read where none are given."""
    return _current.get()


def use(limits: Limits) -> None:
    """Read within these limits from now on, where none are given."""
    _current.set(limits)
