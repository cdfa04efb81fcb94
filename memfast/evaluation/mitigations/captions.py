"""Somepalli et al. 2023 (arXiv 2305.20086), at inference: the caption is perturbed."""

from collections.abc import Sequence

from torch import Tensor

from memfast.attacks.perturbations import PERTURBATIONS, vocabulary_of
from memfast.evaluation.mitigations.interface import Setting, Treated, plain
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule

CHANGES = 4  # words; the strength that Wen et al. compare at


def perturbed(kind: str, setting: Setting) -> Treated:
    """Every caption is changed four times by one of `PERTURBATIONS`, by its id and the seed."""
    perturb = PERTURBATIONS[kind]
    vocabulary = vocabulary_of(setting.reference.texts)

    def generate(
        driver: Driver,
        texts: Sequence[str],
        ids: Sequence[str],
        seed: int,
        schedule: Schedule,
    ) -> Tensor:
        changed = [
            perturb(text, vocabulary, CHANGES, generator(f"{name}/{kind}", seed))
            for text, name in zip(texts, ids, strict=True)
        ]
        return plain(driver, changed, ids, seed, schedule)

    return Treated(setting.driver, generate)
