"""Tensor files: safetensors with a JSON header, checked when they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfast.errors import InputError, reading
from memfast.files.atomic import atomic_create, atomic_write, to_json
from memfast.files.naming import there
from memfast.files.records import check_header

if TYPE_CHECKING:
    from torch import Tensor

_KEY, _SUM = "memfast", "checksum"  # one key: of several, safetensors leaves the order open


def save_tensors(
    path: str | Path, tensors: "dict[str, Tensor]", header: dict[str, Any], *, new: bool = False
) -> None:
    """Write `tensors` as safetensors with `header` as JSON and a checksum, whole or not at all.

    `header` must hold "kind" (a word) and "format" (an integer version); "run", where it holds
    one, is what `load_tensors` may ask for. new: of several processes that write the file at once,
    the first has it.
    """
    if not isinstance(header.get("kind"), str) or not isinstance(header.get("format"), int):
        raise ValueError('header: needs "kind" (a string) and "format" (an integer)')
    from safetensors.torch import save

    told = to_json(json.loads(to_json(header)), sort_keys=True)  # as it will be read
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = to_json({**header, _SUM: _checksum(plain, told)}, sort_keys=True)
    write = atomic_create if new else atomic_write
    write(path, lambda temporary: temporary.write_bytes(save(plain, {_KEY: whole})))


def read_tensors(path: str | Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors and the metadata of any safetensors file. Raises InputError for what is none."""
    from safetensors import safe_open

    path = there(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except Exception as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a file that `save_tensors` wrote, unchecked: {} where there is none to read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "{}")) if file.keys() else {}
    except (SafetensorError, OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def load_tensors(
    path: str | Path, kind: str, version: int, *, run: str | None = None, finite: bool = False
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """The tensors and the header of a file that `save_tensors` wrote.

    run: what the header must name. finite: whether every number must be.
    Raises InputError when the file is missing, damaged or edited, of another kind, of a newer
    format than `version`, of another run, or holds what is not finite.
    """
    tensors, metadata = read_tensors(path)
    with reading(path):
        header = json.loads(metadata.get(_KEY, "{}"))
        if not isinstance(header, dict):
            raise InputError(f"{path}: its header is not a JSON object")
        check_header(path, header, kind, version)
        summed = header.pop(_SUM, None)
        if summed is not None and summed != _checksum(tensors, to_json(header, sort_keys=True)):
            raise InputError(f"{path}: damaged or edited (its checksum differs)")
    if run is not None and (summed is None or header.get("run") != run):
        raise InputError(f"{path}: of another run ({str(header.get('run'))[:40]}, needed: {run})")
    if finite:
        check_finite(path, tensors)
    return tensors, header


def check_finite(where: object, tensors: "Mapping[str, Tensor]") -> None:
    """Raise InputError, naming the first tensor that holds a number that is not finite."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: {name} holds numbers that are not finite")


def _checksum(tensors: "Mapping[str, Tensor]", header: str) -> str:
    """sha256 over the header and each tensor's name, type, shape and bytes."""
    import torch

    total = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.contiguous().reshape(-1)
        if flat.stride() != (1,):  # a single element may keep any
            flat = flat.clone(memory_format=torch.contiguous_format)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
