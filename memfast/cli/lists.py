"""Options of every command that reads prompt lists: how many bad rows are borne, and the limits."""

from collections.abc import Sequence
from typing import Annotated

import typer

from memfast.errors import InputError
from memfast.limits import DEFAULT, use


def _read_within(settings: Sequence[str] | None) -> Sequence[str]:
    """Whatever this command reads, it reads within these limits."""
    use(DEFAULT.changed(settings or ()))
    return settings or ()


def _read_and_count(settings: Sequence[str] | None) -> Sequence[str]:
    captions(settings)
    _read_within([setting for setting in settings or () if not setting.isdecimal()])
    return settings or ()


MaxRejected = Annotated[int, typer.Option(min=0, help="Bad rows that are borne, of each list.")]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=N",
        help="A limit of what is read, such as pixels=2e8 (docs/trust.md has them).",
        callback=_read_within,
    ),
]
CaptionsAndLimits = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N | NAME=N",
        help="At most N captions of each list; or a limit of what is read, such as pixels=2e8.",
        callback=_read_and_count,
    ),
]


def captions(settings: Sequence[str] | None) -> int | None:
    """How many captions of each list are wanted, where that was said. Raises InputError for 0."""
    counts = [int(setting) for setting in settings or () if setting.isdecimal()]
    if 0 in counts:
        raise InputError("--limit 0: must be at least 1")
    return min(counts, default=None)
