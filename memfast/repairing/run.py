"""`memfast.repair`: bring a pruned model back to what reference prompts need, and harden it."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn
from typing_extensions import Unpack

from memfast.errors import InputError, some
from memfast.measuring.cases import Cases, load_cases
from memfast.measuring.groups import halves
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.schedule import Request
from memfast.progress import Stage, silent, stages
from memfast.prompts import PromptSet
from memfast.repairing.erasing.perturbing import perturb
from memfast.repairing.erasing.selecting import MOST, selected_weights
from memfast.repairing.removal import harm_of
from memfast.repairing.samples import Samples, samples_of, with_images
from memfast.repairing.settings import RepairSettings
from memfast.repairing.teaching.objectives import Material
from memfast.repairing.teaching.pool import Pool
from memfast.repairing.teaching.training import History, train
from memfast.repairing.teaching.watching import Look, Watch
from memfast.sharing.formats import is_compact

FEWEST = 8  # reference captions: half of them train, half of them judge
JUDGES = 64  # duplicate groups that are held out to judge, at most


@dataclass(frozen=True)
class Repaired:
    """driver, pipeline: a copy with the repaired model. history: each step's errors. figures: the
    held-out loss over the original's before and after, and seconds. notes: what could not be used.
    looks: what was seen on the way, where it was watched.
    """

    driver: Driver
    history: History
    figures: Mapping[str, float]
    notes: Sequence[str]
    looks: Sequence[Look] = ()

    @property
    def pipeline(self) -> DiffusionPipeline:
        """The repaired pipeline, of the class that was given."""
        return self.driver.owner


def repair(
    pipeline: DiffusionPipeline,
    original: DiffusionPipeline,
    reference: PromptSet | Sequence[str],
    memorized: PromptSet | Sequence[str] | None = None,
    *,
    settings: RepairSettings | None = None,
    checkpoint: Path | None = None,
    progress: bool | Stage = False,
    **asked: Unpack[Request],
) -> Repaired:
    """A copy of `pipeline` whose denoiser is repaired towards `original`; see RepairSettings.

    Every other one of the first 128 reference captions is held out and only judges. Captions
    without a training image get one that the original makes (reference) or that the pruned model
    makes (the surrogate of memorized ones); only memorized captions with a training image are
    attacked. asked: steps, guidance and size other than the pipeline's own (see Request).
    progress: as `audit`'s.
    Raises InputError for a compact original, one of another shape, fewer than 8 reference
    captions, captions in both lists, and what `train` refuses.
    """
    settings = settings or RepairSettings()
    student, teacher = driver_of(pipeline, **asked), driver_of(original, **asked)
    check_original(student, teacher)
    reference = PromptSet.of(reference)
    located = None if memorized is None else load_cases(PromptSet.of(memorized), teacher.size)
    check_located(located, reference)
    lesson = Lesson.of(teacher, reference, settings.seed)
    return lesson.taught(student, located, settings, checkpoint, stages(progress))


@dataclass(frozen=True)
class Lesson:
    """What an original model teaches, whichever model is repaired.

    known: reference captions, each with an image: those learnt from and those held out to judge.
    harm: a model's loss on the held-out ones over the original's. given: identifies the captions
    and the pictures that came with them.
    """

    teacher: Driver
    known: Cases
    learnt: Cases
    held_out: Cases
    harm: Callable[[nn.Module], float]
    given: str

    @classmethod
    def of(cls, teacher: Driver, reference: PromptSet, seed: int) -> "Lesson":
        """Raises InputError for too few captions."""
        known = load_cases(reference, teacher.size, images_wanted=False)
        if len(known) < FEWEST:
            raise InputError(
                f"reference: {len(known)} captions; at least {FEWEST} are needed, half to learn "
                "from and half to judge by"
            )
        given = known.digest
        known = with_images(teacher, known, teacher.schedule(), seed)
        learnt, held_out = every_other(known)
        return cls(teacher, known, learnt, held_out, harm_of(teacher, held_out, seed), given)

    def taught(
        self,
        student: Driver,
        located: Cases | None,
        settings: RepairSettings,
        checkpoint: Path | None = None,
        stage: Stage = silent,
    ) -> Repaired:
        """A copy of the student, repaired."""
        given = [self.given, located and located.digest]
        notes = [*self.known.notes, *(located.notes if located is not None else ())]
        result = student.with_model(deepcopy(student.model))
        watch = None
        if settings.watch:
            located, watch = self._watched(result, located, settings.seed, notes)
        material = prepare(student, self.teacher, self.learnt, located, settings, given)
        chosen = self._shown(located, settings, notes)
        before, started = self.harm(student.model), perf_counter()

        def erase() -> None:
            if chosen is None:
                perturb(result.model, settings.perturb, settings.seed)
                return
            count = sum(min(MOST, len(each)) for each in (chosen, material.reference))
            advance = stage("what memorized captions use", count)
            share, seed = settings.selected, settings.seed
            sets = chosen, material.reference
            masks = selected_weights(result, *sets, share, seed, advance, settings.graphs)
            perturb(result.model, settings.perturb_low, seed, masks, settings.perturb_high)

        advance = stage("repairing", settings.steps)
        how: dict[str, Any] = {"erase": erase, "watch": watch}
        history = train(result, self.teacher, material, checkpoint, advance, **how)
        figures = {
            "damage_before": before,
            "damage_after": self.harm(result.model),
            "seconds": perf_counter() - started,
            "reference_captions": len(self.learnt),
            "held_out_captions": len(self.held_out),
            "located_captions": 0 if located is None else len(located),
        }
        return Repaired(result, history, figures, notes, watch.looks if watch else ())

    def _watched(
        self, result: Driver, located: Cases | None, seed: int, notes: list[str]
    ) -> tuple[Cases | None, Watch | None]:
        """The memorized captions that teach, and a watch on the others."""
        shown = located and located.first_images()[0]
        if not shown or len(set(shown.groups)) < 2:
            notes.append("not watched: it takes two memorized captions with images")
            return located, None
        teaching, watched = (shown.part(part) for part in halves(shown.groups, seed))
        return teaching, Watch(result, watched, self.held_out, self.teacher.schedule())

    def _shown(
        self, located: Cases | None, settings: RepairSettings, notes: list[str]
    ) -> Samples | None:
        """The memorized captions by which weights are selected; None where all are erased alike."""
        if not settings.selected:
            return None
        shown = located and located.first_images()[0]
        if not shown:
            notes.append("all weights are erased alike: no memorized caption has an image")
            return None
        return samples_of(self.teacher, shown)


def prepare(
    student: Driver,
    teacher: Driver,
    reference: Cases,
    located: Cases | None,
    settings: RepairSettings,
    given: Sequence[str | None] = (),
) -> Material:
    """What the objectives draw from; `given` identifies it."""
    samples = samples_of(teacher, reference)
    own = pool = None
    if located is not None and settings.surrogate > 0:
        bare = Cases(tuple(replace(c, images=c.images[:0]) for c in located.cases))
        own = samples_of(student, with_images(student, bare, teacher.schedule(), settings.seed))
    if settings.adversarial > 0:
        count = min(settings.controls, len(samples))
        others = tuple(start for start in settings.starts if start != "prompt")
        targets = [(first(samples, count), others)] if count and others else []
        if located is not None and any(len(case.images) for case in located.cases):
            targets.append((samples_of(teacher, located.first_images()[0]), settings.starts))
        if targets:
            pool = Pool(student, targets, settings)
    return Material(settings, samples, own, pool, teacher.encode([""]), list(given))


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


def check_located(located: Cases | None, reference: PromptSet) -> None:
    """Raise InputError for memorized captions that are none, or reference captions as well."""
    if located is None:
        return
    if not len(located):
        raise InputError("memorized: there are none")
    if shared := sorted(set(located.texts) & set(reference.texts)):
        raise InputError(f"captions in both memorized and reference: {some(shared)}")
