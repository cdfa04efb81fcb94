"""Audits of several models beside one another, where that means something."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memfast.auditing.storing import manifest
from memfast.errors import InputError
from memfast.files import read_json, there

LISTS = ("prompts", "reference", "memorized")
SAME = ("rests on", "score", "probe", "fpr", "prompts", "texts")


def compare_audits(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each audit's folder: flagged texts, their share, the verdict.

    Raises InputError for a folder that holds no finished audit, and for audits of different
    footing, score, false-positive rate or list: their counts are no comparison.
    """
    summaries = [read_json(there(folder, "folder") / "summary.json") for folder in folders]
    for folder, summary in zip(folders, summaries, strict=True):
        if not isinstance(summary, dict) or "footing" not in summary:
            raise InputError(f"{folder}: holds no finished audit of this version")
        for key in SAME:
            if summary[key] != summaries[0][key]:
                raise InputError(
                    f"{folder}: {key} is {summary[key]!r}, but {summaries[0][key]!r} in "
                    f"{folders[0]}; such audits cannot be compared"
                )
        theirs, own = _lists(folders[0]), _lists(folder)
        if other := [name for name in LISTS if own[name] != theirs[name]]:
            raise InputError(
                f"{folder}: audited other lists than {folders[0]} ({', '.join(other)})"
            )
    if summaries[0]["rests on"] == "none":
        raise InputError(f"{folders[0]}: has no verdict, so nothing to compare")
    return [
        {
            "audit": folder.name,
            "flagged": summary["flagged_texts"],
            "share": summary["flagged_texts"] / summary["texts"],
            "verdict": summary["verdict"],
        }
        for folder, summary in zip(folders, summaries, strict=True)
    ]


def _lists(folder: Path) -> dict[str, Any]:
    """The digests of the lists that an audit read."""
    identity = manifest.of(folder).read()["identity"]
    return {name: identity[name] for name in LISTS}
