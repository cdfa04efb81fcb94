"""Captions with clean latents: what a repair trains on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memfast.errors import InputError
from memfast.measuring.cases import Cases
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.schedule import Schedule


@dataclass(frozen=True)
class Samples:
    """ids, texts, clean latents and conditioning, one a caption."""

    ids: Sequence[str]
    texts: Sequence[str]
    clean: Latents
    conditioning: Conditioning

    def __len__(self) -> int:
        return len(self.ids)

    def drawn(self, size: int, source: torch.Generator) -> Tensor:
        """Indices of at most `size` samples, drawn without repetition."""
        return torch.randperm(len(self), generator=source)[:size].to(self.clean.device)


def with_images(driver: Driver, cases: Cases, schedule: Schedule, seed: int = 0) -> Cases:
    """The captions, each without a training image given the one that the model makes of it."""
    bare = [case for case in cases.cases if not len(case.images)]
    if not bare:
        return cases
    ids, texts = [case.id for case in bare], [case.text for case in bare]
    made = driver.generate(driver.encode_all(texts), ids, seed, schedule)
    images = iter(made)  # by place: two captions may have one id
    filled = [
        case if len(case.images) else replace(case, images=next(images)[None])
        for case in cases.cases
    ]
    return Cases(tuple(filled), cases.notes)


def samples_of(driver: Driver, cases: Cases) -> Samples:
    """The captions with the latents of their first images.

    Raises InputError for no captions, or one without an image.
    """
    if not len(cases) or not all(len(case.images) for case in cases.cases):
        raise InputError("samples: captions with images are needed, and at least one")
    shown, images = cases.first_images()
    clean, conditioning = driver.encode_images(images), driver.encode_all(shown.texts)
    return Samples(shown.ids, shown.texts, clean, conditioning)
