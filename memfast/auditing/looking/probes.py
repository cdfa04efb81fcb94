"""Probes: where on the way from noise to picture the denoiser is looked at. Add one to PROBES.

All prompts share their noises: differences between prompts are due to the prompts, and what no
prompt has touched is computed once a run.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float64
from memfast_kernels import Moments
from torch import Tensor

from memfast.auditing.looking.gate_taps import GateTaps
from memfast.auditing.looking.prefix import Prefix
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.taps import Taps
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.precision import wide

Time = int | float


@dataclass(frozen=True)
class Unit:
    """The prompts of one call of the denoiser; those past the first `rows` are padding."""

    conditioning: Conditioning
    rows: int


@dataclass(frozen=True)
class Prediction:
    """The clean latents and the noise that the denoiser takes noisy latents apart into."""

    clean: Latents
    noise: Latents

    def guided(self, empty: "Prediction", scale: float) -> "Prediction":
        """Classifier-free guidance: away from the prediction without a prompt."""
        return Prediction(
            empty.clean + scale * (self.clean - empty.clean),
            empty.noise + scale * (self.noise - empty.noise),
        )


@dataclass(frozen=True)
class Look:
    """What the denoiser showed of some prompts at one noise level.

    empty: its prediction without a prompt, where there is one. norms: of every feed-forward neuron
    in the pass with the prompts, L2 over tokens, all sites side by side. moments: by site, pooled
    over the unit's rows, of the first look alone. start: it is the look at pure noise, from which
    others begin.
    """

    prediction: Prediction
    norms: Float64[Tensor, "rows neurons"]
    empty: Prediction | None = None
    moments: dict[str, Moments] | None = None
    start: bool = False


@dataclass(frozen=True)
class Point:
    """Latents that all prompts share (or one a row), their time, the prediction there without a
    prompt, and the network before its first cross-attention."""

    latents: Latents
    time: Time
    empty: Prediction
    prefix: Prefix | None


class Scene:
    """One noise that all prompts share, and what no prompt has touched, computed once: the
    prediction without a prompt at pure noise, and the network before its first cross-attention.

    With a noise for each row of one unit, only the prediction is kept.
    """

    def __init__(
        self, driver: Driver, taps: Taps | GateTaps, noise: Latents, settings: Settings
    ) -> None:
        self.driver, self.taps, self.settings = driver, taps, settings
        self.schedule = driver.times(settings.schedule)
        self.levels = [driver.path.time_of(level) for level in settings.path]
        self.noise = noise
        self.no_prompt = driver.no_prompt
        self.start = self._point(noise, self.schedule[0])
        self.empty = self.start.empty

    @cached_property
    def shared(self) -> list[Point]:
        """One step to each noise level from the prediction without a prompt."""
        return [self._point(self.step(self.empty, time), time) for time in self.levels]

    def _point(self, latents: Latents, time: Time) -> Point:
        told, seen = self.no_prompt.expand(len(latents)), []

        def run() -> None:
            seen.append(self.look(latents, time, told).prediction)

        if len(latents) > 1:
            run()
            return Point(latents, time, seen[0], None)
        prefix = Prefix(self.driver, run)
        return Point(latents, time, seen[0], prefix)

    def first(self, unit: Unit) -> Look:
        """The look at pure noise, with and without the prompts: one row each."""
        return replace(self.at(self.start, unit), start=True)

    def at(self, point: Point, unit: Unit) -> Look:
        """The look at a point, with and without the prompts: one row each.

        Prompts whose norms are not finite are left out of the moments.
        """
        rows = torch.arange(unit.rows)
        look = self._at(point, unit, rows)
        if self.taps.leaves_out:
            return look
        finite = look.norms[: unit.rows].isfinite().all(1).cpu()
        return look if finite.all() else self._at(point, unit, rows[finite])

    def _at(self, point: Point, unit: Unit, counted: Tensor) -> Look:
        size = len(unit.conditioning)
        latents = point.latents.expand(size, *point.latents.shape[1:])
        replayed = point.prefix.replayed(size) if point.prefix else nullcontext()
        with replayed, self.taps.counting(counted) as moments:
            look = self.look(latents, point.time, unit.conditioning)
        return replace(look, empty=point.empty, moments=moments)

    def look(self, latents: Latents, time: Time, conditioning: Conditioning) -> Look:
        """A look with the prompts alone: one row each."""
        self.taps.text_rows = conditioning.text_rows
        output, latents = wide(self.driver.predict(latents, time, conditioning)), wide(latents)
        clean = self.driver.path.clean(output, latents, time)
        noise = self.driver.path.noise(output, latents, time)
        return Look(Prediction(clean, noise), self.taps.drain())

    def both(self, latents: Latents, time: Time, conditioning: Conditioning) -> Look:
        """A look with and without the prompts: two rows each."""
        empty = self.look(latents, time, self.no_prompt.expand(len(conditioning)))
        return replace(self.look(latents, time, conditioning), empty=empty.prediction)

    def guided(self, look: Look, time: Time) -> Prediction:
        """What the pipeline goes on from: guidance, where its schedule has some."""
        driver, own, schedule = self.driver, look.prediction, self.settings.schedule
        if not driver.guided(schedule):
            return own
        guided = own.guided(look.empty or self.empty, driver.weight(schedule))
        if not driver.corrects:
            return guided
        path = driver.path
        latents = path.add(guided.clean, guided.noise, time)
        outputs = [path.target(each.clean, each.noise, time) for each in (guided, own)]
        output = driver.corrected(*outputs)
        return Prediction(path.clean(output, latents, time), path.noise(output, latents, time))

    def step(self, prediction: Prediction, time: Time) -> Latents:
        """A deterministic step to `time`, of any length: DDIM's, or straight along the flow."""
        return self.driver.path.add(prediction.clean, prediction.noise, time)


def first(scene: Scene, unit: Unit) -> list[Look]:
    """Pure noise only."""
    return [scene.first(unit)]


def settle(scene: Scene, unit: Unit) -> list[Look]:
    """Pure noise, then large unguided steps along the path, with the prompts alone."""
    looks = [scene.first(unit)]
    for level in scene.levels:
        looks.append(scene.look(scene.step(looks[-1].prediction, level), level, unit.conditioning))
    return looks


def jump(scene: Scene, unit: Unit) -> list[Look]:
    """As `settle`, and at the last noise level without the prompts too."""
    looks = [scene.first(unit)]
    for level in scene.levels[:-1]:
        looks.append(scene.look(scene.step(looks[-1].prediction, level), level, unit.conditioning))
    level = scene.levels[-1]
    return [*looks, scene.both(scene.step(looks[-1].prediction, level), level, unit.conditioning)]


def levels(scene: Scene, unit: Unit) -> list[Look]:
    """Pure noise, then from there one step to each noise level, with and without the prompts."""
    return at_levels(scene, unit, scene.levels)


def at_levels(scene: Scene, unit: Unit, times: Sequence[Time]) -> list[Look]:
    """The same at some of the levels' times."""
    start = scene.first(unit)
    steps = ((scene.step(start.prediction, time), time) for time in times)
    return [start, *(scene.both(latents, time, unit.conditioning) for latents, time in steps)]


def shared(scene: Scene, unit: Unit) -> list[Look]:
    """At each noise level, one step from the prediction without a prompt: what is looked at there
    is every prompt's, and so is the prediction without one."""
    return [scene.at(point, unit) for point in scene.shared]


def walk(scene: Scene, unit: Unit) -> list[Look]:
    """The first steps of the schedule, guided as the pipeline is."""
    looks = [scene.first(unit)]
    for before, time in pairwise(scene.schedule[: scene.settings.walk_steps]):
        guided = scene.guided(looks[-1], before)
        looks.append(scene.both(scene.step(guided, time), time, unit.conditioning))
    return looks


Looks = Callable[[Scene, Unit], list[Look]]


@dataclass(frozen=True)
class Probe:
    """A probe; how many looks it takes, and the denoiser rows a prompt and noise that they cost.

    parts: the noise levels of its looks, where none goes on from another.
    """

    looks: Looks
    looks_made: Callable[[Settings], int]
    rows: Callable[[Settings], int]
    parts: Callable[[Settings], tuple[float, ...]] = lambda settings: ()


PROBES: dict[str, Probe] = {
    "first": Probe(first, lambda settings: 1, lambda settings: 1),
    "settle": Probe(settle, lambda s: 1 + len(s.path), lambda s: 1 + len(s.path)),
    "jump": Probe(jump, lambda s: 1 + len(s.path), lambda s: 2 + len(s.path)),
    "levels": Probe(
        levels, lambda s: 1 + len(s.path), lambda s: 1 + 2 * len(s.path), lambda s: s.path
    ),
    "shared": Probe(shared, lambda s: len(s.path), lambda s: len(s.path), lambda s: s.path),
    "walk": Probe(walk, lambda s: s.walk_steps, lambda s: 2 * s.walk_steps - 1),
}
