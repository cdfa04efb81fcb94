"""The error that a command shows as one line, and what turns other errors into it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EFBIG, EIO, ENOSPC, EPERM, EROFS

LONGEST = 200  # characters of another library's message
REFUSALS = (ENOSPC, EDQUOT, EROFS, EFBIG, EIO, EACCES, EPERM)  # of a file system that is written to
NO_MEMORY = (  # in torch's messages: of CUDA, ROCm, XPU and MPS, and of the CPU
    "out of memory",
    "DefaultCPUAllocator",
    "allocate memory",
    "not enough memory",
    "std::bad_alloc",
)


class InputError(ValueError):
    """Something the user gave cannot be used: the message names it, its value and what is legal.

    The command line prints the message on one line and exits with 2; whatever the names in it hold,
    it can be printed.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Text that any terminal can show: what would steer it, or is no character, as its escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of many names, and how many there are besides."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def one_line(error: BaseException) -> str:
    """What an exception says, on one line that is not too long; else its name."""
    said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    text = " ".join(said.split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine, or a device, had too little memory for what was asked of it."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


@contextmanager
def reading(place: object, verb: str = "read") -> Iterator[None]:
    """Whatever libraries raise within becomes one InputError that names `place`."""
    try:
        yield
    except InputError as error:
        if str(place) in str(error):
            raise
        raise InputError(f"{place}: {error}") from error
    except Exception as error:
        raise InputError(f"{place}: cannot be {verb} ({one_line(error)})") from error


@contextmanager
def writing(place: object) -> Iterator[None]:
    """What the file system refuses within, whichever library asks it, becomes one InputError that
    names `place`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (reason := refusal(error)) is None:
            raise
        raise InputError(f"{place}: cannot be written ({reason})") from error


def refusal(error: BaseException | None) -> str | None:
    """Why the file system refused, where that is what an error, or one behind it, tells of."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or one_line(error)
        told = [os.strerror(code) for code in REFUSALS if os.strerror(code) in str(error)]
        if told:  # a library in another language says it in words
            return told[0]
        error = error.__cause__ or error.__context__
    return None
