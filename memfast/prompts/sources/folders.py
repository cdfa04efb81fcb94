"""The data files of a folder, as `datasets` lays them out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memfast.errors import InputError, reading
from memfast.limits import Limits
from memfast.prompts.sources.compression import plain_suffix, whole
from memfast.prompts.sources.formats import FORMATS

_SUFFIXES = (".arrow", ".parquet", ".jsonl", ".csv", ".tsv", ".json", ".txt")
_NOT_DATA = {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"}


def data_files(folder: Path, limits: Limits) -> list[Path]:
    """In order: those that the folder's state.json names (`save_to_disk`; files left by `map` do
    not count); else the metadata files beside its images (image folder); else every file of the
    first of the known formats that it holds (a hub snapshot).

    Raises InputError where there is none, or more than the limit `files`.
    """
    with reading(folder):
        found = _of_datasets(folder, limits) or _lying_about(folder, limits)
    if not found:
        raise InputError(f"{folder}: a folder without a data file; legal: {', '.join(FORMATS)}")
    return found


def _of_datasets(folder: Path, limits: Limits) -> list[Path]:
    """What `save_to_disk` wrote: a dataset, or one of several splits."""
    if (folder / "dataset_dict.json").is_file():
        splits = _object(folder / "dataset_dict.json", limits).get("splits")
        parts = [_of_dataset(folder / name, limits) for name in _names(splits, folder)]
        return [file for part in parts for file in part]
    return _of_dataset(folder, limits)


def _of_dataset(folder: Path, limits: Limits) -> list[Path]:
    path = folder / "state.json"
    if not path.is_file():
        return []
    state = _object(path, limits)
    if state.get("_indices_data_files"):
        raise InputError(
            f"{folder}: saved with an indices mapping by an old version of datasets; save it anew "
            "after flatten_indices()"
        )
    entries = state.get("_data_files") or []
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    files = [folder / name for name in _names(names, path)]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise InputError(f"{path}: names {missing.name}, which is not there")
    return files


def _names(names: Any, where: Path) -> Iterable[str]:
    """Names of entries of one folder, never of other places."""
    listed = names if isinstance(names, list) else [names]
    for name in listed:
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise InputError(f"{where}: {str(name)[:60]!r} is not the name of a file in its folder")
    return listed


def _lying_about(folder: Path, limits: Limits) -> list[Path]:
    files: list[Path] = []
    for file in folder.rglob("*"):
        inside = file.relative_to(folder).parts
        hidden = any(part.startswith((".", "__")) for part in inside)
        if not hidden and plain_suffix(file) in _SUFFIXES and file.name not in _NOT_DATA:
            files.append(file)
        if len(files) > limits.files:
            raise InputError(f"{folder}: more than {limits.files} data files (limit files)")
    of_images = [file for file in files if file.name.partition(".")[0] == "metadata"]
    for suffix in _SUFFIXES:
        found = [f for f in of_images or files if plain_suffix(f) == suffix and f.is_file()]
        if found:
            return sorted(found)
    return []


def _object(path: Path, limits: Limits) -> dict[str, Any]:
    with reading(path):
        value = json.loads(whole(path, limits))
        if not isinstance(value, dict):
            raise InputError(f"{path}: is not a JSON object")
        return value
