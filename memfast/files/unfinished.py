"""What is not finished yet: under names that nobody else gives, locked while its owner lives."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = re.compile(r"\.memfast-[0-9a-f]{8}\.(tmp|lock)")


def sign(path: Path) -> str:
    """In the names of what is beside `path`: what it belongs to; short, whatever that is called."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]


@contextmanager
def unfinished(folder: Path, *, a_folder: bool = False) -> Iterator[Path]:
    """A new empty file in `folder`, or a folder, under a short name; with the end of the block it
    is gone, unless it was renamed. Raises OSError where it cannot be made."""
    descriptor = None
    try:
        while descriptor is None:
            path = folder / f".memfast-{secrets.token_hex(4)}.tmp"
            path.mkdir() if a_folder else path.touch(exist_ok=False)
            descriptor = own(path)
        yield path
    finally:
        _delete(path)
        if descriptor is not None:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete what processes that ended left unfinished in `folder`; what lives, or cannot be read
    or deleted, stays."""
    with suppress(OSError):
        for path in folder.iterdir():
            if MARK.fullmatch(path.name):
                with abandoned(path) as nobodys:
                    if nobodys:
                        _delete(path)


def sweep_below(folder: Path) -> None:
    """`sweep` of a folder and of all within."""
    for place, _, _ in os.walk(folder):
        sweep(Path(place))


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether no living process owns `path`; within the block none can take it."""
    try:
        descriptor = _open(path)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        nobodys = True
    except OSError:
        nobodys = False
    try:
        yield nobodys
    finally:
        os.close(descriptor)


def own(path: Path) -> int | None:
    """The descriptor that, while it is open, says that the owner of `path` lives; None where
    another process has just taken it for a dead one's."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a file system without locks: then nothing is taken for dead either
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
            return descriptor
    os.close(descriptor)
    return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def _delete(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
