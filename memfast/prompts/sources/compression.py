"""Plain, gzip and zstd files opened alike, and read within bounds."""

import gzip
import io
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.limits import Limits

COMPRESSED = (".gz", ".zst")


def plain_suffix(path: Path) -> str:
    """The suffix below any compression, lower-case: ".csv" for "list.csv.gz"."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def open_bytes(path: Path) -> Any:
    """A binary file of what `path` holds, decompressed; can only be read forwards."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".zst":
            from pyarrow import input_stream

            return input_stream(str(path), compression="zstd")
        case _:
            return open(path, "rb")


def open_text(path: Path) -> io.TextIOWrapper:
    """The text of `path`; bytes that are not UTF-8 become lone surrogates, to be found by row.

    Raises InputError for UTF-16, which would otherwise read as nonsense.
    """
    with open_bytes(path) as handle:
        if handle.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{path}: is UTF-16; save it as UTF-8")
    return io.TextIOWrapper(
        open_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline=""
    )


def whole(path: Path, limits: Limits) -> bytes:
    """All that `path` holds, decompressed. Raises InputError beyond the limit `document`."""
    content = bytearray()
    with open_bytes(path) as handle:
        while part := handle.read(min(1 << 20, limits.document + 1 - len(content))):
            content += part
    if len(content) > limits.document:
        raise InputError(
            f"{path}: more than {limits.document} bytes (limit document); .jsonl, .csv and .txt "
            "stream and have no such bound"
        )
    return bytes(content)
