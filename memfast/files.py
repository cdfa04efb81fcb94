"""Files written whole or not at all, output folders, and tensor files with a JSON header."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfast.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_HEADER_KEY = "memfast"


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it to `path`.

    A reader sees the old file or the new one, never a part, whenever the process is killed.
    When `write` raises, `path` is untouched and the temporary file is gone.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_out(path: str | Path, overwrite: bool = False) -> Path:
    """`path` as a folder that may be written; touches nothing.

    Raises InputError for a file, and for a folder that holds something unless `overwrite`.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"--out {folder}: is not empty; name another folder or pass --overwrite")
    return folder


def prepare_out(path: str | Path, overwrite: bool = False) -> Path:
    """The folder `path`, made if need be.

    With `overwrite`, files are replaced one by one and nothing else in the folder is deleted.
    Raises InputError where `check_out` does, and for a place that cannot be written.
    """
    folder = check_out(path, overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"--out {folder}: is read-only")
    return folder


def save_tensors(path: str | Path, tensors: "dict[str, Tensor]", header: dict[str, Any]) -> None:
    """Write `tensors` as safetensors with `header` as JSON, whole or not at all.

    `header` must hold "kind" (a word) and "format" (an integer version).
    """
    if not isinstance(header.get("kind"), str) or not isinstance(header.get("format"), int):
        raise ValueError('header: needs "kind" (a string) and "format" (an integer)')
    from safetensors.torch import save

    metadata = {_HEADER_KEY: json.dumps(header, sort_keys=True)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write(path, lambda temporary: temporary.write_bytes(save(plain, metadata)))


def load_tensors(
    path: str | Path, kind: str, version: int
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """The tensors and the header of a file that `save_tensors` wrote.

    Raises InputError when the file is missing or damaged, of another kind, or of a newer format
    than `version`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata.get(_HEADER_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    found, form = header.get("kind"), header.get("format")
    if found != kind:
        raise InputError(f"{path}: holds {found or 'no memfast header'}; needed: {kind}")
    if not isinstance(form, int) or form > version:
        raise InputError(f"{path}: format {form} is newer than this memfast reads ({version})")
    return tensors, header


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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
