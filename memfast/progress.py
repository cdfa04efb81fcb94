"""How long work says where it is: a stage is opened with a label and a total, then advanced."""

from collections.abc import Callable

Advance = Callable[[int], None]
Stage = Callable[[str, int], Advance]


def silent(label: str, total: int) -> Advance:
    """A stage that shows nothing."""
    return lambda done: None
