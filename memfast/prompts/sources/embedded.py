"""Images that lie within a parquet or arrow file, named by "embedded://ROW:FILE"."""

import atexit
import os
from pathlib import Path
from threading import Lock
from typing import Any

from memfast.errors import InputError
from memfast.limits import Limits
from memfast.prompts.sources.columnar import Images

_lock = Lock()
_kept: dict[Any, Images] = {}  # the file last read from
EMBEDDED = "embedded://"


def embedded_name(file: Path, row: int) -> str:
    """What a Prompt's `image` says of the image in row `row`, from 1, of `file`."""
    return f"{EMBEDDED}{row}:{file.resolve()}"


def read_embedded(name: str, limits: Limits) -> bytes | Path:
    """The bytes of the image, or its path where the row holds no bytes. Raises InputError."""
    row, _, file = name.removeprefix(EMBEDDED).partition(":")
    path = Path(file)
    if not (row.isascii() and row.isdecimal() and len(row) < 19 and path.is_file()):
        raise InputError(f"{name}: no such file")
    about = path.stat()
    key = (os.getpid(), path, limits, about.st_mtime_ns, about.st_size)
    with _lock:
        if key not in _kept:
            _forget()
            _kept[key] = Images(path, limits)
        try:
            found = _kept[key][int(row)]
        except InputError:
            _forget()
            raise
    return found if isinstance(found, bytes) else path.parent / found


@atexit.register
def _forget() -> None:
    while _kept:
        (pid, *_), images = _kept.popitem()
        if pid == os.getpid():  # else a process of the one that this was forked from
            images.close()
