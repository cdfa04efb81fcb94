"""The protocol: every method beside its controls, on prompts that it never saw, repeated.

For each repetition (its own split, noise, draws and attack): methods learn from one half of the
memorized captions and are tested on the other, split by duplicate group; each pruning is held
against random pruning of equal density and of equal damage. A claim whose interval overlaps its
control's is "not shown".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from memfast.attacks.embeddings import AttackSettings
from memfast.attacks.experiment import attack_cases
from memfast.blocks.sizes import parameters
from memfast.evaluation.mitigations import Mitigation, Setting, Treated
from memfast.evaluation.mitigations.pruning import at_damage, at_density
from memfast.measuring.cases import Cases
from memfast.measuring.distances import ssim as structural_similarity
from memfast.measuring.groups import halves
from memfast.measuring.losses import denoising_loss
from memfast.measuring.networks.backbones import Embed
from memfast.measuring.networks.clip import ClipScorer
from memfast.measuring.quality import frechet_distance, kernel_distance
from memfast.measuring.replication import broken, replication
from memfast.measuring.similarity import Toolbox
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.schedule import Schedule

ORIGINAL = Mitigation("original", "", "weights", lambda setting: Treated(setting.driver))


@dataclass(frozen=True)
class Bench:
    """Everything that is equal for all methods.

    memorized: captions to split and test. fixed_test: test on all of them, because the method was
    made beforehand. reference: captions that the model does not replicate, with images for the
    loss, the feature distances and the attack's control. heldout: captions that the model never
    saw, with or without images. attack: None leaves the attack out. real: with a network, its
    features of each reference caption's training images.
    """

    driver: Driver
    memorized: Cases
    reference: Cases
    schedule: Schedule
    tools: Toolbox
    seeds: int = 2
    repeats: int = 3
    seed: int = 0
    fraction: float = 0.1
    fixed_test: bool = False
    attack: AttackSettings | None = None
    clip: ClipScorer | None = None
    network: tuple[str, Embed] | None = None
    real: Sequence[Tensor] = ()
    heldout: Cases | None = None


@dataclass
class Outcome:
    """One method over all repetitions.

    Figures a caption are lists of [captions], one a repetition, NaN where it was not tested. The
    first three hold each metric's score nearest to a copy: of plain generation, under attack, and
    under attack for reference captions (the attack's control). `singles`: one figure a repetition.
    `notes`: captions whose images could not be used.
    """

    name: str
    source: str
    lives_in: Literal["weights", "pipeline"]
    plain: dict[str, list[Tensor]] = field(default_factory=dict)
    attacked: dict[str, list[Tensor]] = field(default_factory=dict)
    control: dict[str, list[Tensor]] = field(default_factory=dict)
    reference: dict[str, list[Tensor]] = field(default_factory=dict)
    heldout: dict[str, list[Tensor]] = field(default_factory=dict)
    singles: dict[str, list[float]] = field(default_factory=dict)
    pictures: Tensor | None = None
    attacked_pictures: Tensor | None = None
    reference_pictures: Tensor | None = None
    tested: list[int] = field(default_factory=list)
    reference_tested: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def extend(self, later: "Outcome") -> None:
        """Add later repetitions of the same method; the pictures stay those of the first."""
        for name in ("plain", "attacked", "control", "reference", "heldout", "singles"):
            for metric, values in getattr(later, name).items():
                getattr(self, name).setdefault(metric, []).extend(values)
        self.notes += later.notes

    def note(self, **figures: float) -> None:
        """Add one repetition's single figures."""
        for name, value in figures.items():
            self.singles.setdefault(name, []).append(float(value))


@dataclass(frozen=True)
class Trial:
    """One repetition's split and seeds."""

    bench: Bench
    number: int

    @property
    def seed(self) -> int:
        """This repetition's seed."""
        return self.bench.seed + self.number

    @property
    def image_seeds(self) -> list[int]:
        """This repetition's own image seeds."""
        first = 1000 * (self.seed + 1)
        return list(range(first, first + self.bench.seeds))

    @property
    def split(self) -> tuple[list[int], list[int]]:
        """Located and tested captions."""
        everything = list(range(len(self.bench.memorized)))
        if self.bench.fixed_test:
            return [], everything
        return halves(self.bench.memorized.groups, self.seed)

    @property
    def setting(self) -> Setting:
        """What methods may learn from."""
        bench = self.bench
        located = bench.memorized.part(self.split[0])
        learn = bench.reference.part(halves(bench.reference.groups, self.seed)[0])
        return Setting(bench.driver, located, learn, bench.schedule, bench.fraction, self.seed)

    @property
    def reference(self) -> tuple[list[int], Cases]:
        """The reference captions that no method learns from."""
        kept = halves(self.bench.reference.groups, self.seed)[1]
        return kept, self.bench.reference.part(kept)


def controls(trial: Trial, method: Mitigation, treated: Treated) -> list[Mitigation]:
    """Random pruning of equal density and of equal damage, compensated as the method is."""
    if method.control is None:
        return []
    make = {
        f"{method.name}: random, equal density": partial(at_density, method.control, treated),
        f"{method.name}: random, equal damage": partial(at_damage, method.control, treated),
    }
    return [Mitigation(name, "control", "weights", apply) for name, apply in make.items()]


def measure(
    trial: Trial,
    method: Mitigation,
    outcomes: dict[str, Outcome],
    original: Mapping[str, Tensor] | None,
    treated: Treated | None = None,
) -> dict[str, Tensor]:
    """Add one repetition of a method to `outcomes`; returns its {set: images [seeds, ...]}.

    original: the same of the original model, at equal seeds.
    """
    bench = trial.bench
    treated = treated or method.apply(trial.setting)
    outcome = outcomes.setdefault(method.name, Outcome(method.name, method.source, method.lives_in))
    tested = trial.split[1]
    memorized = bench.memorized.part(tested)
    kept, reference = trial.reference
    others = torch.cat([bench.memorized.training_images(), bench.reference.training_images()])

    started = perf_counter()
    images = [_images(treated, memorized, s, bench.schedule) for s in trial.image_seeds]
    seconds = (perf_counter() - started) / (len(images) * len(memorized))
    outcome.notes += broken(images, memorized.ids, f"{method.name}, repetition {trial.number + 1}")
    found = replication(bench.tools, images, memorized, others)
    for metric in found.scores:
        _keep(outcome.plain, metric, found.nearest(metric), tested, len(bench.memorized))

    made = {
        "reference": _quality(trial, treated, reference, kept, outcome, original),
        "heldout": torch.empty(0),
    }
    if bench.heldout is not None:
        everything = list(range(len(bench.heldout)))
        made["heldout"] = _quality(trial, treated, bench.heldout, everything, outcome, original)
    plain = made["reference"]
    if bench.network is not None:
        real = torch.cat([bench.real[index] for index in kept])
        seen = bench.network[1](plain.flatten(0, 1))
        outcome.note(fid=frechet_distance(seen, real), kid=kernel_distance(seen, real))
    size = float(parameters(treated.driver.model))
    outcome.note(seconds=seconds, parameters=size, removed=treated.removed)
    if bench.attack is not None and method.source != "control" and method.lives_in == "weights":
        _attack(trial, bench.attack, treated, outcome, others)
    if outcome.pictures is None:
        outcome.pictures, outcome.tested = images[0], tested
        outcome.reference_pictures, outcome.reference_tested = plain[0], kept
    return made


def _quality(
    trial: Trial,
    treated: Treated,
    cases: Cases,
    kept: Sequence[int],
    outcome: Outcome,
    original: Mapping[str, Tensor] | None,
) -> Tensor:
    """Add what a treatment did to captions that are not memorized; their images [seeds, ...]."""
    bench = trial.bench
    images = torch.stack([_images(treated, cases, s, bench.schedule) for s in trial.image_seeds])
    of_set = "heldout" if cases is bench.heldout else "reference"
    figures = outcome.heldout if of_set == "heldout" else outcome.reference
    outcome.notes += broken(
        images, cases.ids, f"{outcome.name}, repetition {trial.number + 1}, {of_set}"
    )
    total = len(bench.heldout or ()) if of_set == "heldout" else len(bench.reference)
    ssim = torch.ones(len(cases))
    if original is not None:
        near = structural_similarity(images.flatten(0, 1), original[of_set].flatten(0, 1))
        ssim = near.view(len(images), -1).mean(0)
    _keep(figures, "ssim", ssim, kept, total)
    _keep(figures, "loss", denoising_loss(treated.driver, cases, trial.seed), kept, total)
    if bench.clip is not None:
        score = torch.stack([bench.clip.score(x, cases.texts) for x in images]).mean(0)
        _keep(figures, "clip", score, kept, total)
    return images


def _images(treated: Treated, cases: Cases, seed: int, schedule: Schedule) -> Tensor:
    images = treated.generate(treated.driver, cases.texts, cases.ids, seed, schedule)
    return images.float().cpu()


def _attack(
    trial: Trial, attack: AttackSettings, treated: Treated, outcome: Outcome, others: Tensor
) -> None:
    bench, tested = trial.bench, trial.split[1]
    settings = replace(attack, seed=trial.seed)
    kept, reference = trial.reference
    pairs = (
        (outcome.attacked, tested, bench.memorized.part(tested), len(bench.memorized)),
        (outcome.control, kept, reference, len(bench.reference)),
    )
    for figures, indices, cases, total in pairs:
        shown = [i for i, case in zip(indices, cases.cases, strict=True) if len(case.images)]
        attacked = attack_cases(
            treated.driver,
            cases,
            bench.tools,
            others,
            bench.schedule,
            settings=settings,
            seeds=trial.image_seeds,
        )
        where = f"{outcome.name}, repetition {trial.number + 1}, under attack"
        outcome.notes += [f"{where}: {note}" for note in attacked.notes]
        found = attacked.together(settings.steps[-1])
        for metric in found.scores:
            _keep(figures, metric, found.nearest(metric), shown, total)
        if figures is outcome.attacked and outcome.attacked_pictures is None:
            outcome.attacked_pictures = attacked.pictures


def _keep(
    figures: dict[str, list[Tensor]], name: str, values: Tensor, where: Sequence[int], total: int
) -> None:
    row = torch.full((total,), torch.nan)
    row[list(where)] = values.float()
    figures.setdefault(name, []).append(row)
