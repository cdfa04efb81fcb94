"""Audits of several models beside one another, where that means something."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.files import read_json

SAME = ("rests on", "score", "probe", "fpr", "prompts", "texts")


def compare_audits(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each audit's folder: flagged texts, their share, the verdict.

    Raises InputError for a folder that holds no finished audit, and for audits of different
    footing, score, false-positive rate or list: their counts are no comparison.
    """
    summaries = [read_json(folder / "summary.json") for folder in folders]
    for folder, summary in zip(folders, summaries, strict=True):
        if not isinstance(summary, dict) or "footing" not in summary:
            raise InputError(f"{folder}: holds no finished audit of this version")
        for key in SAME:
            if summary[key] != summaries[0][key]:
                raise InputError(
                    f"{folder}: {key} is {summary[key]!r}, but {summaries[0][key]!r} in "
                    f"{folders[0]}; such audits cannot be compared"
                )
        if (mine := _lists(summary)) != _lists(summaries[0]):
            raise InputError(f"{folder}: audited other lists than {folders[0]} ({', '.join(mine)})")
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


def _lists(summary: dict[str, Any]) -> dict[str, Any]:
    """The digests of the lists that an audit read."""
    found = summary.get("inputs", {})
    return {
        name: told.get("digest") if isinstance(told, dict) else told for name, told in found.items()
    }
