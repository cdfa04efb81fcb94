"""The loop: attack, remove what reference prompts do not need, repair; until the attack fails.

The memorized captions are split by duplicate group: one half is located and trained on, the other
validates. Nothing is chosen by any other caption, image or embedding: test on captions that neither
half holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from diffusers import DiffusionPipeline
from typing_extensions import Unpack

from memfast.attacks.embeddings import STARTS, AttackSettings
from memfast.blocks.families import ffn_sites
from memfast.errors import InputError
from memfast.measuring.cases import load_cases
from memfast.measuring.groups import halves
from memfast.measuring.rates import Interval
from memfast.observing.sensitivity import collect_sensitivity
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.schedule import Request
from memfast.progress import Stage, silent
from memfast.prompts import Prompt, PromptSet
from memfast.removing.compact import compact
from memfast.repairing.proving import brought_back, rate_of
from memfast.repairing.removal import remove_to_damage
from memfast.repairing.run import Lesson, check_located, check_original
from memfast.repairing.settings import RepairSettings


@dataclass(frozen=True)
class Round:
    """Where the model stands before a round (and, in the last entry, after all): neurons left,
    held-out loss over the original's, and what the attack brings back of the validation part and
    of reference images."""

    neurons: int
    damage: float
    attacked: Interval
    control: Interval
    seconds: float

    @property
    def met(self) -> bool:
        """Whether the attack does no better on memorized images than on its control."""
        return self.attacked.value <= self.control.high

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "neurons": self.neurons,
            "damage": self.damage,
            "attacked": self.attacked.as_dict(),
            "control": self.control.as_dict(),
            "met": self.met,
            "seconds": self.seconds,
        }


def repair_in_rounds(
    pipeline: DiffusionPipeline,
    original: DiffusionPipeline,
    reference: PromptSet,
    memorized: PromptSet,
    *,
    rounds: int,
    max_damage: float,
    settings: RepairSettings,
    attack: AttackSettings | None = None,
    starts: Sequence[str] = tuple(STARTS),
    checkpoint: Path | None = None,
    stage: Stage = silent,
    **asked: Unpack[Request],
) -> tuple[DiffusionPipeline, list[Round], list[str]]:
    """The repaired pipeline, each round's figures (at most `rounds`) and notes on the lists.

    Each begins with an attack. When it brings back no more than its control's interval allows, or
    the damage is spent after a repair, that was the last. Neurons go while `max_damage` allows.
    Memorized captions without an image are left out, and noted.
    Raises InputError for fewer than two with an image, and where `repair` does.
    """
    teacher, student = driver_of(original, **asked), driver_of(pipeline, **asked)
    check_original(student, teacher)
    given = load_cases(memorized, teacher.size)
    check_located(given, reference)
    cases = given.first_images()[0]
    if len(cases) < 2:
        raise InputError("memorized: rounds need at least two captions, each with its image")
    lesson = Lesson.of(teacher, reference, settings.seed)
    located, validation = (cases.part(part) for part in halves(cases.groups, settings.seed))
    library = torch.cat([cases.training_images(), lesson.known.training_images()])
    control = lesson.held_out.part(range(min(len(validation), len(lesson.held_out))))
    of_learnt = [prompt for prompt in reference if prompt.text in set(lesson.learnt.texts)]
    found: list[Round] = []
    for number in range(rounds + 1):
        started = perf_counter()
        told = library, teacher.schedule(), attack, starts, stage
        rates = [
            rate_of(brought_back(student, part, *told), part) for part in (validation, control)
        ]
        damage = lesson.harm(student.model)
        neurons = sum(ffn_sites(student.model).values())
        found.append(Round(neurons, damage, rates[0], rates[1], perf_counter() - started))
        if number == rounds or found[-1].met or (number and damage > max_damage):
            break
        if damage < max_damage:
            student = _smaller(student, of_learnt, lesson, max_damage, settings.seed)
        state = checkpoint and numbered(checkpoint, number)
        student = lesson.taught(student, located, settings, state, stage).driver
    return student.owner, found, [*lesson.known.notes, *given.notes]


def _smaller(
    student: Driver,
    prompts: list[Prompt],
    lesson: Lesson,
    max_damage: float,
    seed: int,
) -> Driver:
    """The model without what may still go; as it is where nothing may."""
    asked = lesson.teacher.request(lesson.teacher.schedule())
    statistics = collect_sensitivity(student.owner, PromptSet.of(prompts), seed=seed, **asked)
    try:
        removal = remove_to_damage(student, statistics, lesson.harm, max_damage)
    except InputError:
        return student
    return student.with_model(compact(student.model, removal.subspace))


def numbered(checkpoint: Path, number: int) -> Path:
    """The checkpoint of one round."""
    return checkpoint.with_name(f"{checkpoint.stem}.{number}{checkpoint.suffix}")
