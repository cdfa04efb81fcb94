"""Files written whole or not at all."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memfast.errors import writing
from memfast.files.unfinished import unfinished


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it to `path`.

    A reader sees the old file or the new one, never a part, whenever the process is killed.
    When `write` raises, `path` is untouched and the temporary file is gone. Raises InputError for
    a full disk and a place that cannot be written.
    """
    _filled(Path(path), write, os.replace)


def atomic_create(path: str | Path, write: Callable[[Path], object]) -> bool:
    """As `atomic_write`, unless there is one: of several processes exactly one gets True."""
    made = True

    def place(temporary: Path, path: Path) -> None:
        nonlocal made
        try:
            os.link(temporary, path)
        except FileExistsError:
            made = False

    _filled(Path(path), write, place)
    return made


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all; lone surrogates as their escapes."""
    atomic_write(path, text_writer(text))


def text_writer(text: str) -> Callable[[Path], object]:
    """What writes `text` as UTF-8, for `atomic_write` and `atomic_create`."""
    return lambda temporary: temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all; see `to_json`."""
    atomic_write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, **how: Any) -> str:
    """`value` as JSON by the letter: a number that is not finite becomes null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, **how)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _filled(
    path: Path, write: Callable[[Path], object], place: Callable[[Path, Path], None]
) -> None:
    with writing(path):
        with unfinished(path.parent) as temporary:
            write(temporary)
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            place(temporary, path)
        sync_folder(path.parent)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
