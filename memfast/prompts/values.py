"""The values of a row's cells: what a caption, an id, a label, a seed and an image may be."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from memfast.limits import Limits
from memfast.prompts.prompt import is_utf8
from memfast.prompts.sources.rows import BadRow

_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?", re.ASCII)


def checked_text(value: object, limits: Limits) -> str:
    """A caption without surrounding blanks. Raises BadRow for none, too long or not UTF-8."""
    if value is None or value == "":
        raise BadRow("no prompt")
    if not isinstance(value, str):
        raise BadRow(f"the prompt is not text but {type(value).__name__}")
    text = value.strip()
    if not text:
        raise BadRow("no prompt")
    return checked(text, "prompt", limits.caption, "caption")


def checked(text: str, what: str, most: int, limit: str) -> str:
    """`text` unless it is longer than `most` or not UTF-8. Raises BadRow."""
    if len(text) > most:
        raise BadRow(f"over-long: {what} of {len(text)} characters, at most {most} (limit {limit})")
    if not is_utf8(text):
        raise BadRow(f"the {what} is not UTF-8")
    return text


def word(value: object, what: str, limits: Limits, notes: Counter[str]) -> str | None:
    """An id, a label or a group; a whole number is written without decimals, so that 1, 1.0 and
    "1.0" are one. NaN is none, and counted."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == "":
        return None
    if not isinstance(value, (str, int, float)) or value in (math.inf, -math.inf):
        raise BadRow(f"the {what} is not a word but {_short(value)}")
    text = str(value)
    if text.strip().casefold() == "nan":
        notes[f"{what} is NaN"] += 1
        return None
    checked(text, what, limits.word, "word")
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def seed_of(value: object, notes: Counter[str]) -> int | None:
    """A row's own seed; 42.0 and "42" are 42. NaN is none, and counted."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and math.isnan(value):
        notes["seed is NaN"] += 1
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) and len(value) < 40:
        value = int(value.strip().partition(".")[0])
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRow(f"the seed {_short(value)} is not an integer")
    if not 0 <= value < 2**63:
        raise BadRow(f"the seed {_short(value)} is outside [0, 2**63)")
    return value


def place_of(value: object, folder: Path, limits: Limits, notes: Counter[str]) -> str | None:
    """An image's path, made absolute from `folder`, or its URL."""
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]  # a Hugging Face image feature
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        notes["image is no path"] += 1
        return None
    checked(value, "image", limits.place, "place")
    if "\0" in value:
        raise BadRow("the image's path holds a NUL")
    return value if "://" in value else str(folder / value)


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:39]}…"
