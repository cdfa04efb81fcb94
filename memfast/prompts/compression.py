"""Plain, gzip and zstd files opened alike."""

import gzip
import io
from pathlib import Path
from typing import Any

from memfast.errors import InputError

COMPRESSED = (".gz", ".zst")


def plain_suffix(path: Path) -> str:
    """The suffix below any compression, lower-case: ".csv" for "list.csv.gz"."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def open_bytes(path: Path) -> Any:
    """A binary file of what `path` holds, decompressed; meant to be read forwards."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".zst":
            return _open_zstd(path)
        case _:
            return open(path, "rb")


def open_text(path: Path) -> io.TextIOWrapper:
    """The text of `path`; bytes that are not UTF-8 become lone surrogates, to be found by row.

    Raises InputError for UTF-16, which would otherwise read as nonsense.
    """
    with open_bytes(path) as handle:
        if handle.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{path}: is UTF-16; save it as UTF-8")
    raw = open_bytes(path)
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _open_zstd(path: Path) -> Any:
    from pyarrow import input_stream

    return input_stream(str(path), compression="zstd")
