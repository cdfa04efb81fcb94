"""Output folders: tried before the work, and replaced whole or not at all."""

import ctypes
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from memfast.errors import InputError, reading, some, writing
from memfast.files.atomic import atomic_write_text, sync_folder, to_json
from memfast.files.ledger import NAME, Ledger, write_ledger
from memfast.files.lock import locked
from memfast.files.tensors import read_header
from memfast.files.unfinished import abandoned, own, sign, sweep, sweep_below, unfinished

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def check_out(path: str | Path, overwrite: bool = False) -> Path:
    """`path` as a folder that may be written; touches nothing.

    Raises InputError for a file, and for a folder that holds something unless `overwrite`.
    """
    folder = Path(path)
    with reading(f"--out {folder}"):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--out {folder}: is a file; name a folder")
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise InputError(
                f"--out {folder}: is not empty; name another folder or pass --overwrite"
            )
    return folder


def prepare_out(path: str | Path, overwrite: bool = False) -> Path:
    """The folder `path`, made if need be.

    With `overwrite`, files are replaced one by one and nothing else in the folder is deleted.
    Raises InputError where `check_out` and `try_out` do.
    """
    folder = check_out(path, overwrite)
    with writing(f"--out {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    try_out(folder)
    return folder


def try_out(path: str | Path, size: int = 0) -> None:
    """Find out now what would fail at the end: whether `size` bytes fit where `path` (a file or a
    folder) will be, and whether that may be written and so named. Leaves nothing there; takes away
    what processes that ended left unfinished.

    Raises InputError.
    """
    path = Path(os.path.abspath(path))
    there = next(place for place in (path, *path.parents) if os.path.isdir(place))
    longest = os.pathconf(there, "PC_NAME_MAX")
    for part in path.relative_to(there).parts:
        if len(os.fsencode(part)) > longest or "\0" in part:
            raise InputError(f"{path}: {part[:40]!r}… cannot be a name (at most {longest} bytes)")
    for place in {there, path.parent}:
        sweep(place)
    with writing(path):
        for place in path.parents:
            if os.path.lexists(place) and not os.path.isdir(place):
                raise InputError(f"{path}: {place} is not a folder")
        with unfinished(there) as probe:
            probe.write_bytes(bytes(4096))
        free = shutil.disk_usage(there).free
    if free < size:
        raise InputError(f"{path}: needs {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free")


def replace_folder(
    path: str | Path,
    write: Callable[[Path], object],
    kind: str,
    overwrite: bool = False,
    spent: Mapping[Path, str] | None = None,
) -> None:
    """Let `write` make a new folder (it is given a path where nothing is yet), and put it in the
    place of `path`, whole: whenever the process is killed, the old one or the new one is there.

    The new folder gets a ledger of `kind` that lists its files. spent: files and folders of
    memfast's with their kinds, which are deleted once the new folder stands, be it by the next
    `check_replaceable`. Raises InputError for a folder that holds something unless `overwrite`, and
    then for one that holds anything memfast did not write.
    """
    path = Path(os.path.realpath(path))
    check_replaceable(path, kind, overwrite)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work, descriptor = _work_folder(path)
    try:
        with writing(path):
            write(work / "new")
            write_ledger(work / "new", kind)
            _sync_tree(work / "new")
            _note_spent(work, spent or {})
            check_replaceable(path, kind, overwrite)
            _swap(work, path)
            sync_folder(path.parent)
    finally:
        _settle(work, path)
        os.close(descriptor)


def _work_folder(path: Path) -> tuple[Path, int]:
    """A new folder beside `path`, and the lock on it, which says that its owner lives."""
    while True:
        work = path.parent / f".memfast-{sign(path)}-{secrets.token_hex(4)}.folder"
        work.mkdir()
        if (descriptor := own(work)) is not None:
            return work, descriptor


def check_replaceable(path: str | Path, kind: str, overwrite: bool) -> None:
    """Raise InputError where `replace_folder` would; puts right what a killed one left."""
    recover_folder(path)
    folder = check_out(path, overwrite)
    try_out(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / NAME).is_file():
        raise InputError(f"--out {folder}: was not made by memfast; name another folder")
    if foreign := Ledger(folder, kind).foreign():
        raise InputError(
            f"--out {folder}: holds {some(foreign)}, which memfast did not write; move that away "
            "or name another folder"
        )


def recover_folder(path: str | Path) -> None:
    """Put right what a killed `replace_folder` of `path` left: the old folder in its place, what a
    new one made superfluous away, and what is unfinished in it and beside it."""
    path = Path(os.path.realpath(path))
    ours = re.compile(rf"\.memfast-{sign(path)}-[0-9a-f]{{8}}\.folder")
    with suppress(OSError):
        for work in path.parent.iterdir():
            if ours.fullmatch(work.name):
                with abandoned(work) as nobodys:
                    if nobodys:
                        _settle(work, path)
    sweep(path.parent)
    sweep(path)


def _swap(work: Path, path: Path) -> None:
    """The folder `new` in the place of `path`, at one stroke where the system can do that."""
    if path.exists() and not _exchange(work / "new", path):
        os.rename(path, work / "old")
        os.rename(work / "new", path)
    elif (work / "new").exists() and not path.exists():
        os.rename(work / "new", path)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two entries atomically; False where that cannot be done."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    one, other = os.fsencode(first), os.fsencode(second)
    return call(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE) == 0


def _note_spent(work: Path, spent: Mapping[Path, str]) -> None:
    """Keep what is to be deleted where the folder `new` of now has taken its place."""
    if spent:
        kinds = {os.path.abspath(path): kind for path, kind in spent.items()}
        told = {"new": (work / "new").stat().st_ino, "spent": kinds}
        atomic_write_text(work / "spent", to_json(told))


def _settle(work: Path, path: Path) -> None:
    """The old folder back where nothing has taken its place, what is spent away where the new one
    has; then away with the rest."""
    if (work / "old").exists() and not path.exists():
        os.rename(work / "old", path)
    if (work / "spent").exists():
        told = json.loads((work / "spent").read_text("utf-8"))
        if path.exists() and path.stat().st_ino == told["new"]:
            for name, kind in told["spent"].items():
                delete_own(Path(name), kind)
    shutil.rmtree(work, ignore_errors=True)


def delete_own(path: Path, kind: str) -> None:
    """Delete a file of this kind, or what is noted in the ledger of a folder of this kind; what is
    none, or is worked in, stays."""
    if path.is_dir():
        with suppress(InputError), locked(path):
            sweep_below(path)
            Ledger(path, kind).clear()
        with suppress(OSError):
            path.rmdir()
    elif read_header(path).get("kind") == kind:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
