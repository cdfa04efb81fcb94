"""One process at a time in a folder: a lock that dies with its owner."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memfast.errors import InputError, writing
from memfast.files.ledger import LOCK
from memfast.files.unfinished import sign


@contextmanager
def locked(folder: str | Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a folder that exists, alone or with others that ask for it `shared`.

    Raises InputError, naming the owner, when another process holds it.
    """
    with held(Path(folder) / LOCK, f"{folder}", shared):
        yield


@contextmanager
def locked_out(out: Path) -> Iterator[None]:
    """Hold the lock of an output that may not exist yet: a file beside it. Raises InputError as
    `locked` does."""
    path = Path(os.path.realpath(out))
    with held(path.with_name(f".memfast-{sign(path)}.lock"), f"{out}"):
        yield


@contextmanager
def held(path: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold the lock that the file `path` stands for: it is made, and deleted afterwards.

    The system gives the lock back when this process ends, however it ends. Raises InputError that
    names `what` is locked, and the owner, when another process holds it.
    """
    descriptor = _take(path, what, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        if not shared:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        if not shared:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path, what: str, how: int) -> int:
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another process"
            os.close(descriptor)
            raise InputError(
                f"{what}: {owner} works there; wait for it or name another folder"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise InputError(f"{path}: cannot be locked ({error.strerror})") from error
        if path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)  # its last owner has just deleted it
