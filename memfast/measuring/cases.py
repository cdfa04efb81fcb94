"""What an evaluation runs on: captions with their training images, grouped by near-duplicate."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.errors import InputError
from memfast.images import fit, is_url, read_image, said, without_place
from memfast.measuring.groups import components, duplicate_groups
from memfast.prompts import Prompt, PromptSet

TEMPLATE_LABELS = ("template", "tm", "tv")  # what public lists call a template


@dataclass(frozen=True, slots=True)
class Case:
    """One caption, its training images [k, 3, h, w] (k may be 0), and its duplicate group.

    A template is a caption with several training images, or one that its list labels so.
    """

    id: str
    text: str
    images: Float[Tensor, "own 3 height width"]
    group: int
    template: bool


@dataclass(frozen=True, slots=True)
class Cases:
    """Captions to evaluate, in order, and notes on what could not be used."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def ids(self) -> list[str]:
        """The captions' ids."""
        return [case.id for case in self.cases]

    @property
    def texts(self) -> list[str]:
        """The captions."""
        return [case.text for case in self.cases]

    @property
    def groups(self) -> list[int]:
        """A duplicate group for each caption."""
        return [case.group for case in self.cases]

    @property
    def digest(self) -> str:
        """Identifies captions, their training images and their groups."""
        total = sha256(repr((self.ids, self.texts, self.groups)).encode())
        total.update(self.training_images().numpy().tobytes())
        return total.hexdigest()[:32]

    def training_images(self) -> Float[Tensor, "images 3 height width"]:
        """All training images, one after another."""
        return torch.cat([case.images for case in self.cases])

    def first_images(self) -> "tuple[Cases, Float[Tensor, 'images 3 height width']]":
        """The captions that have a training image, and the first image of each."""
        shown = [case for case in self.cases if len(case.images)]
        firsts = [case.images[0] for case in shown]
        return Cases(tuple(shown)), torch.stack(firsts) if firsts else torch.zeros(0, 3, 0, 0)

    def part(self, indices: Sequence[int]) -> "Cases":
        """The captions at these indices."""
        return Cases(tuple(self.cases[index] for index in indices))


def load_cases(
    prompts: PromptSet,
    size: tuple[int, int],
    limit: int | None = None,
    *,
    images_wanted: bool = True,
) -> Cases:
    """The captions of a prompt list, with those of their training images that can be read.

    Rows of one caption are one case with several training images. Images of another size than the
    model's `size` (height, width) are cropped and scaled. Into the notes go every image that is
    missing (those that are not named, where images are wanted) or cannot be read, and how often
    others were changed on reading. Groups are the list's own where it gives them, joined with those
    found by caption and by picture. limit: at most so many captions.
    """
    rows: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        if limit is not None and prompt.text not in rows and len(rows) >= limit:
            continue
        rows.setdefault(prompt.text, []).append(prompt)
    notes: list[str] = []
    changed: Counter[str] = Counter()
    stacks = [_images(same, size, notes, changed, images_wanted) for same in rows.values()]
    if changed:
        notes.append(f"training images: {said(changed)}")
    texts = list(rows)
    found = duplicate_groups(texts, stacks)
    names = [same[0].group for same in rows.values()]
    first_of: dict[str, int] = {}
    edges = [(found.index(group), index) for index, group in enumerate(found)]
    for index, name in enumerate(names):
        if name is not None:
            edges.append((first_of.setdefault(name, index), index))
    groups = components(len(texts), edges)
    cases = [
        Case(same[0].id, text, stack, group, len(stack) > 1 or _is_template(same[0]))
        for (text, same), stack, group in zip(rows.items(), stacks, groups, strict=True)
    ]
    return Cases(tuple(cases), tuple(notes))


def _is_template(prompt: Prompt) -> bool:
    return (prompt.label or "").lower() in TEMPLATE_LABELS


def _images(
    rows: Sequence[Prompt],
    size: tuple[int, int],
    notes: list[str],
    changed: Counter[str],
    wanted: bool,
) -> Tensor:
    images = []
    for row in rows:
        place = f"{row.id} (line {row.line})"
        if row.image is None or is_url(row.image):
            if wanted:
                notes.append(f"{place}: no local training image; pass a file's path")
            continue
        try:
            image = read_image(row.image, notes=changed)
        except InputError as error:
            notes.append(f"{place}: {without_place(error, row.image)}")
            continue
        images.append(torch.from_numpy(fit(image, size, changed).copy()))
    return torch.stack(images) if images else torch.zeros(0, 3, *size)
