"""Which column of a table holds the caption, and which the optional fields."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.prompts.prompt import Prompt, make_prompt

TEXT = ("prompt", "caption", "text", "prompts", "captions", "sentence", "title", "description")
FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("id", "prompt_id"),
    "seed": ("seed",),
    "label": ("label", "level", "type", "overfit_type"),
    "group": ("group", "cluster"),
    "image": ("image", "image_path", "file_name"),
}
MAX_CHARACTERS = 10_000


class BadRow(ValueError):
    """A row without a usable prompt; the message says why."""


@dataclass(frozen=True)
class Columns:
    """The names, as the file spells them, of the caption and of the optional fields."""

    text: str
    fields: dict[str, str]

    @classmethod
    def find(
        cls, names: Iterable[str], wanted: str | None, where: str, required: bool = True
    ) -> "Columns":
        """Columns among `names`; `wanted` is the user's word for the caption's.

        When no column holds captions: raises InputError listing `names`, or BadRow if that is
        not `required`.
        """
        names = [name for name in names if isinstance(name, str)]
        spelling = {name.strip().casefold(): name for name in reversed(names)}
        usual = next((spelling[key] for key in TEXT if key in spelling), None)
        text = usual if wanted is None else wanted if wanted in names else None
        if text is None and not required:
            raise BadRow("no prompt")
        if text is None and wanted is not None:
            raise InputError(f"{where}: no column {wanted!r}; its columns are {_listed(names)}")
        if text is None:
            raise InputError(
                f"{where}: no column named like a prompt ({', '.join(TEXT)}); "
                f"choose one with --column: {_listed(names)}"
            )
        found = {
            field: next((spelling[key] for key in keys if key in spelling), None)
            for field, keys in FIELDS.items()
        }
        return cls(text, {field: name for field, name in found.items() if name not in (None, text)})

    def prompt(self, row: Mapping[str, Any], line: int, folder: Path) -> Prompt:
        """The row as a Prompt. Raises BadRow."""
        values = {field: row.get(name) for field, name in self.fields.items()}
        return make_prompt(
            checked_text(row.get(self.text)),
            id=_word(values.get("id")),
            image=_image(values.get("image"), folder),
            seed=_seed(values.get("seed")),
            label=_word(values.get("label")),
            line=line,
            group=_word(values.get("group")),
        )


def checked_text(value: object) -> str:
    """A caption without surrounding blanks. Raises BadRow for none, too long or not UTF-8."""
    if value is None or value == "":
        raise BadRow("no prompt")
    if not isinstance(value, str):
        raise BadRow(f"the prompt is not text but {type(value).__name__}")
    text = value.strip()
    if not text:
        raise BadRow("no prompt")
    if len(text) > MAX_CHARACTERS:
        raise BadRow(f"over-long: {len(text)} characters, at most {MAX_CHARACTERS}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRow("not UTF-8")
    return text


def _word(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _seed(value: object) -> int | None:
    if value is None or value == "":
        return None
    try:
        seed = int(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise BadRow(f"the seed {value!r} is not an integer") from None
    if not 0 <= seed < 2**63:
        raise BadRow(f"the seed {seed} is outside [0, 2**63)")
    return seed


def _image(value: object, folder: Path) -> str | None:
    if isinstance(value, Mapping):  # a Hugging Face image feature
        value = value.get("path")
    if not isinstance(value, str) or not value:
        return None
    return value if "://" in value else str(folder / value)


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
