"""What a model showed of its captions: named columns with their cost in denoiser rows."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass
class Columns:
    """values: [prompts, noises] by name; rows: what a prompt and noise cost a column.

    kind: "memorized", "heldout", "single" or "foreign" of each prompt; level: of duplication;
    replicates: whether half of its seeds' images are copies; reference: what is learnt from;
    example: memorized captions that some scores learn from.
    """

    model: str
    kind: NDArray[np.str_]
    level: NDArray[np.str_]
    group: NDArray[np.str_]
    replicates: NDArray[np.bool_]
    reference: NDArray[np.bool_]
    example: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    PARTS = ("kind", "level", "group", "replicates", "reference", "example")

    def save(self, path: Path) -> None:
        """Write one npz file."""
        values = {f"{self.rows[name]}|{name}": value for name, value in self.values.items()}
        np.savez_compressed(
            path, model=self.model, **{p: getattr(self, p) for p in self.PARTS}, **values
        )

    @classmethod
    def load(cls, path: Path) -> "Columns":
        """What `save` wrote."""
        with np.load(path) as held:
            found = cls(str(held["model"]), *(held[part] for part in cls.PARTS))
            for key in held.files:
                if "|" in key:
                    rows, _, name = key.partition("|")
                    found.values[name], found.rows[name] = held[key], int(rows)
        return found
