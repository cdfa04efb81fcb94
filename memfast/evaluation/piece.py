"""One piece of an evaluation as a file: what a repetition of a method and its controls came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memfast.errors import reading
from memfast.evaluation.protocol import Outcome
from memfast.files import load_tensors, save_tensors

KIND, FORMAT = "evaluation piece", 2
_LISTS = ("plain", "attacked", "control", "reference", "heldout")  # {metric: tensors}
_PICTURES = ("pictures", "attacked_pictures", "reference_pictures")
_WORDS = ("name", "source", "lives_in", "tested", "reference_tested", "notes")


@dataclass(frozen=True)
class Piece:
    """{name: outcome} of a method and its controls, and the original's {set: images}."""

    outcomes: Mapping[str, Outcome]
    made: Mapping[str, Tensor]

    def save(self, path: Path, run: str) -> None:
        """Write a safetensors file, whole or not at all."""
        tensors = {f"made/{name}": images for name, images in self.made.items()}
        for place, outcome in enumerate(self.outcomes.values()):
            for field, metric, values in _lists(outcome):
                tensors[f"{place}/{field}/{metric}"] = values
            for field in _PICTURES:
                if (images := getattr(outcome, field)) is not None:
                    tensors[f"{place}/{field}"] = images.clone()  # it may be a part of `made`
        told = [{name: getattr(each, name) for name in _WORDS} for each in self.outcomes.values()]
        header = {"kind": KIND, "format": FORMAT, "run": run, "outcomes": told}
        save_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: Path, run: str) -> "Piece":
        """A file that `save` wrote. Raises InputError for a damaged one, or of another run."""
        tensors, header = load_tensors(path, KIND, FORMAT, run=run)
        with reading(path):
            outcomes: list[dict[str, Any]] = [dict(told) for told in header["outcomes"]]
            made = {}
            for key, values in tensors.items():
                first, field, metric = (*key.split("/", 2), "")[:3]
                if first == "made":
                    made[key.partition("/")[2]] = values
                elif field in _PICTURES:
                    outcomes[int(first)][field] = values
                elif field == "singles":
                    outcomes[int(first)].setdefault(field, {})[metric] = values.tolist()
                else:
                    outcomes[int(first)].setdefault(field, {})[metric] = list(values)
            return cls({told["name"]: Outcome(**told) for told in outcomes}, made)


def _lists(outcome: Outcome) -> list[tuple[str, str, Tensor]]:
    """(field, metric, a row for each repetition)."""
    figures = [
        (field, metric, torch.stack(values))
        for field in _LISTS
        for metric, values in getattr(outcome, field).items()
    ]
    singles = [
        ("singles", name, torch.tensor(values, dtype=torch.float64))
        for name, values in outcome.singles.items()
    ]
    return figures + singles
