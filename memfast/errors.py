"""The error that a command shows as one line, and what turns other errors into it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LONGEST = 200  # characters of another library's message


class InputError(ValueError):
    """Something the user gave cannot be used: the message names it, its value and what is legal.

    The command line prints the message on one line and exits with 2; whatever the names in it hold,
    it can be printed.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of many names, and how many there are besides."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def one_line(error: BaseException) -> str:
    """What an exception says, on one line that is not too long; else its name."""
    said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    text = " ".join(said.split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


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
    """What the file system refuses within becomes one InputError that names `place`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"{place}: cannot be written ({reason})") from error
