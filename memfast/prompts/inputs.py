"""The lists that a command is given: opened alike, and what was left out of them told alike."""

from pathlib import Path
from typing import Any

from memfast.prompts.ids import clashing_ids
from memfast.prompts.prompt import PromptSet
from memfast.prompts.reading import read_prompts
from memfast.prompts.rejected import BORNE, RejectedRows

NAMED = 20  # rows or ids that a summary names; of more it keeps the number


def open_list(path: str | Path, column: str | None = None, max_rejected: int = BORNE) -> PromptSet:
    """A prompt list whose bad rows are left out and counted.

    Raises InputError where `read_prompts` does, and for more than `max_rejected` bad rows.
    """
    return read_prompts(path, column, on_rejected=RejectedRows(max_rejected))


def inputs(**lists: Any) -> dict[str, dict[str, Any]]:
    """What a summary says of prompt lists that were read, by their role: the file's name, and what
    was left out or passed over where something was. Other values are passed over."""
    return {
        role: _told(prompts) for role, prompts in lists.items() if isinstance(prompts, PromptSet)
    }


def _told(prompts: PromptSet) -> dict[str, Any]:
    told: dict[str, Any] = {"list": Path(prompts.name).name}
    rows = prompts.rejected
    if rows is not None:
        told["rejected"] = len(rows.rows)
        if rows.rows:
            told["rejected_rows"] = rows.named(NAMED)
    if prompts.notes:
        told["notes"] = dict(prompts.notes)
    if clashing := clashing_ids(prompts, NAMED):
        told["ids_of_several_captions"] = [
            f"{name!r} (lines {first.line} and {other.line})"
            for name, (first, other) in clashing.items()
        ]
    return told
