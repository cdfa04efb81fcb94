"""Which column of a table holds the caption, and which the optional fields."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memfast.limits import Limits
from memfast.prompts.prompt import Prompt, make_prompt
from memfast.prompts.sources.rows import BadRow
from memfast.prompts.values import checked_text, place_of, seed_of, word

TEXT = ("prompt", "caption", "text", "prompts", "captions", "sentence", "title", "description")
FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("id", "prompt_id"),
    "seed": ("seed",),
    "label": ("label", "level", "type", "overfit_type"),
    "group": ("group", "cluster"),
    "image": ("image", "image_path", "file_name"),
}


@dataclass(frozen=True)
class Columns:
    """The names, as the file spells them, of the caption and of the optional fields."""

    text: str
    fields: dict[str, str]

    @classmethod
    def find(cls, names: Iterable[str], wanted: str | None) -> "Columns":
        """Columns among `names`; `wanted` is the user's word for the caption's.

        Raises BadRow, listing `names`, when none of them holds captions.
        """
        names = [name for name in names if isinstance(name, str)]
        spelling = {name.strip().casefold(): name for name in reversed(names)}
        usual = next((spelling[key] for key in TEXT if key in spelling), None)
        text = usual if wanted is None else wanted if wanted in names else None
        if text is None and wanted is not None:
            raise BadRow(f"no column {wanted!r}; its columns are {_listed(names)}")
        if text is None:
            raise BadRow(
                f"no column named like a prompt ({', '.join(TEXT)}); "
                f"choose one with --column: {_listed(names)}"
            )
        found = {
            field: next((spelling[key] for key in keys if key in spelling), None)
            for field, keys in FIELDS.items()
        }
        return cls(text, {field: name for field, name in found.items() if name not in (None, text)})

    def prompt(
        self,
        row: Mapping[str, Any],
        line: int,
        folder: Path,
        limits: Limits,
        notes: Counter[str],
    ) -> Prompt:
        """The row as a Prompt; what was passed over in it is counted in `notes`. Raises BadRow."""
        values = {field: row.get(name) for field, name in self.fields.items()}
        return make_prompt(
            checked_text(row.get(self.text), limits),
            id=word(values.get("id"), "id", limits, notes),
            image=place_of(values.get("image"), folder, limits, notes),
            seed=seed_of(values.get("seed"), notes),
            label=word(values.get("label"), "label", limits, notes),
            line=line,
            group=word(values.get("group"), "group", limits, notes),
        )


def _listed(names: list[str]) -> str:
    listed = [repr(name[:60]) for name in names[:20]]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(listed) or "none") + more
