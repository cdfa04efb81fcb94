"""The error that a command shows as one line."""

from collections.abc import Sequence


class InputError(ValueError):
    """Something the user gave cannot be used: the message names it, its value and what is legal.

    The command line prints the message on one line and exits with 2.
    """


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of many names, and how many there are besides."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
