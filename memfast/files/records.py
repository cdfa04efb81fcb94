"""JSON files that say what they are, of which run, and whether they are whole."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memfast.errors import InputError, reading
from memfast.files.atomic import atomic_create, atomic_write, text_writer, to_json
from memfast.files.naming import there

LARGEST = 1 << 26  # bytes of a JSON file of ours
_OWN = ("kind", "format", "run", "checksum")


def write_record(
    path: str | Path,
    kind: str,
    form: int,
    value: Mapping[str, Any],
    run: str | None = None,
    *,
    new: bool = False,
) -> None:
    """Write `value` as JSON with its kind, format, run and checksum, whole or not at all.

    new: of several processes that write the file at once, the first has it.
    """
    body = json.loads(to_json({**value, "kind": kind, "format": form, "run": run}))
    write = atomic_create if new else atomic_write
    write(path, text_writer(to_json(body | {"checksum": checksum(body)}, indent=2) + "\n"))


def read_record(path: str | Path, kind: str, form: int, run: str | None = None) -> dict[str, Any]:
    """What `write_record` wrote.

    Raises InputError when the file is missing, damaged, of another kind, of a newer format than
    `form`, or of another run where `run` is given.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: is not a JSON object")
    check_header(path, value, kind, form)
    if value.get("checksum") != checksum(value):
        raise InputError(f"{path}: damaged or edited (its checksum differs)")
    if run is not None and value.get("run") != run:
        raise InputError(f"{path}: of another run ({str(value.get('run'))[:40]}, needed: {run})")
    return {key: item for key, item in value.items() if key not in _OWN}


def read_json(path: str | Path) -> Any:
    """A JSON file of at most 64 MiB. Raises InputError when it is missing or cannot be read."""
    path = there(path)
    with reading(path):
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: more than {LARGEST} bytes; not a file of memfast")
        return json.loads(path.read_text(encoding="utf-8"))


def checksum(body: Mapping[str, Any]) -> str:
    """sha256 of a JSON object but for its own checksum."""
    rest = {key: item for key, item in body.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_header(path: str | Path, header: Mapping[str, Any], kind: str, form: int) -> None:
    """Raise InputError for another kind of file, or a newer format."""
    found, its = header.get("kind"), header.get("format")
    if found != kind:
        told = "no memfast header" if found is None else str(found)[:40]
        raise InputError(f"{path}: holds {told}; needed: {kind}")
    if not isinstance(its, int) or isinstance(its, bool):
        raise InputError(f"{path}: damaged (format {str(its)[:40]})")
    if its > form:
        raise InputError(f"{path}: format {its} is newer than this memfast reads ({form})")


def first_difference(found: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the settings that a folder was made with and those of now."""
    for key, value in now.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            inner = next((k for k in value if value[k] != other.get(k)), None)
            if inner is not None:
                return f"{inner} was {other.get(inner)!r}, now {value[inner]!r}"
        elif value != other:
            return f"{key} was {other!r}, now {value!r}"
    return "its settings differ"
