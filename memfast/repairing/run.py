"""`memfast.repair`: bring a pruned model back to what reference prompts need, and harden it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from diffusers import DiffusionPipeline

from memfast.errors import InputError, some
from memfast.measuring.cases import Cases, load_cases
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.schedule import Schedule
from memfast.progress import Stage, silent
from memfast.prompts import PromptSet
from memfast.repairing.objectives import Material
from memfast.repairing.perturbing import perturb
from memfast.repairing.pool import Pool
from memfast.repairing.removal import harm_of
from memfast.repairing.samples import Samples, samples_of, with_images
from memfast.repairing.settings import RepairSettings
from memfast.repairing.training import History, train
from memfast.sharing.formats import is_compact

FEWEST = 8  # reference captions: half of them train, half of them judge
JUDGES = 64  # duplicate groups that are held out to judge, at most


@dataclass(frozen=True)
class Repaired:
    """pipeline: a copy with the repaired model. history: each step's errors. figures: the held-out
    loss over the original's before and after, and seconds. notes: what could not be used."""

    pipeline: DiffusionPipeline
    history: History
    figures: Mapping[str, float]
    notes: Sequence[str]


def repair(
    pipeline: DiffusionPipeline,
    original: DiffusionPipeline,
    reference: PromptSet | Sequence[str],
    memorized: PromptSet | Sequence[str] | None = None,
    *,
    settings: RepairSettings | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    checkpoint: Path | None = None,
    stage: Stage = silent,
) -> Repaired:
    """A copy of `pipeline` whose denoiser is repaired towards `original`; see RepairSettings.

    Every other one of the first 128 reference captions is held out and only judges. Captions
    without a training image get one that the original makes (reference) or that the pruned model
    makes (the surrogate of memorized ones); only memorized captions with a training image are
    attacked.
    Raises InputError for a compact original, one of another shape, fewer than 8 reference
    captions, captions in both lists, and what `train` refuses.
    """
    settings = settings or RepairSettings()
    student, teacher = driver_of(pipeline), driver_of(original)
    check_original(student, teacher)
    schedule = teacher.schedule(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
    )
    size = teacher.size
    known = load_cases(PromptSet.of(reference), size)
    located = None if memorized is None else load_cases(PromptSet.of(memorized), size)
    check_lists(known, located)
    learnt, held_out = every_other(known)
    material = prepare(student, teacher, learnt, located, settings, schedule)
    held_out = with_images(teacher, held_out, schedule, settings.seed)
    result = student.with_model(deepcopy(student.model))
    perturb(result.model, settings.perturb, settings.seed)
    harm = harm_of(teacher, held_out, settings.seed)
    before, started = harm(student.model), perf_counter()
    advance = stage("repairing", settings.steps)
    history = train(result, teacher, material, checkpoint, advance)
    figures = {
        "damage_before": before,
        "damage_after": harm(result.model),
        "seconds": perf_counter() - started,
        "reference_captions": len(learnt),
        "held_out_captions": len(held_out),
        "located_captions": 0 if located is None else len(located),
    }
    notes = (*known.notes, *(located.notes if located is not None else ()))
    return Repaired(result.owner, history, figures, notes)


def prepare(
    student: Driver,
    teacher: Driver,
    reference: Cases,
    located: Cases | None,
    settings: RepairSettings,
    schedule: Schedule,
) -> Material:
    """What the objectives draw from; captions without a picture get one."""
    digest = [reference.digest, located and located.digest]
    samples = samples_of(teacher, with_images(teacher, reference, schedule, settings.seed))
    own = pool = None
    if located is not None and settings.surrogate > 0:
        bare = Cases(tuple(replace(c, images=c.images[:0]) for c in located.cases))
        own = samples_of(student, with_images(student, bare, schedule, settings.seed))
    if settings.adversarial > 0:
        count = min(settings.controls, len(samples))
        others = tuple(start for start in settings.starts if start != "prompt")
        targets = [(first(samples, count), others)] if count and others else []
        if located is not None and any(len(case.images) for case in located.cases):
            targets.append((samples_of(teacher, located.first_images()[0]), settings.starts))
        if targets:
            pool = Pool(student, targets, settings)
    return Material(settings, samples, own, pool, teacher.encode([""]), digest)


def first(samples: Samples, count: int) -> Samples:
    """The first `count` samples."""
    return Samples(
        samples.ids[:count],
        samples.texts[:count],
        samples.clean[:count],
        samples.conditioning[:count],
    )


def every_other(cases: Cases) -> tuple[Cases, Cases]:
    """Two parts by turns, no duplicate group in both; of a long list the second stays short."""
    groups = list(dict.fromkeys(cases.groups))
    turn = {group: place % 2 * (place < 2 * JUDGES) for place, group in enumerate(groups)}
    sides = [[k for k, g in enumerate(cases.groups) if turn[g] == side] for side in (0, 1)]
    return cases.part(sides[0]), cases.part(sides[1])


def check_original(student: Driver, teacher: Driver) -> None:
    """Raise InputError unless `teacher` is a dense model that `student` may have come from."""
    if any(is_compact(model) for model in teacher.models.values()):
        raise InputError(
            "original: is a compact model itself; give the model that it was made from"
        )
    if student.kind != teacher.kind:
        raise InputError(f"original: is {teacher.kind}, but the model to repair {student.kind}")
    for name, model in teacher.models.items():
        own: Any = student.models[name].config
        for key, theirs in public(model.config).items():  # type: ignore[arg-type]
            if own.get(key) != theirs:
                raise InputError(
                    f"original: {key} is {theirs}, but {own.get(key)} in the model to repair"
                )
    ours, theirs = (d.scheduler.config.get("prediction_type") for d in (student, teacher))
    if ours != theirs:
        raise InputError(f"original: predicts {theirs}, but the model to repair predicts {ours}")


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model's config says how it is built."""
    return {key: value for key, value in config.items() if key[0] != "_"}


def check_lists(reference: Cases, located: Cases | None) -> None:
    """Raise InputError for too few reference captions, or some that are memorized as well."""
    if len(reference) < FEWEST:
        raise InputError(
            f"reference: {len(reference)} captions; at least {FEWEST} are needed, half to learn "
            "from and half to judge by"
        )
    if located is None:
        return
    if not len(located):
        raise InputError("memorized: there are none")
    if shared := sorted(set(located.texts) & set(reference.texts)):
        raise InputError(f"captions in both memorized and reference: {some(shared)}")
