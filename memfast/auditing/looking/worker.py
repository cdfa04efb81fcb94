"""A worker: one loaded model that turns texts into a block's figures, always by the same bits."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Bool, Float64
from memfast_kernels import Moments
from memfast_kernels.shapes import statistics_device
from torch import Tensor

from memfast.auditing.looking.combining import PART
from memfast.auditing.looking.gate_taps import GateTaps
from memfast.auditing.looking.probes import PROBES, Look, Looks, Scene, Unit
from memfast.auditing.looking.scores import Baseline, score_of
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.taps import tap
from memfast.errors import InputError, is_out_of_memory
from memfast.memory.captured import captured
from memfast.memory.free import release
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.fitting import FEWEST, filling
from memfast.pipelines.identity import made_on
from memfast.prompts import Prompt

POOLED_AT_ONCE = 8  # units' statistics


@dataclass(frozen=True)
class Block:
    """What a block of prompts came to.

    scores: of every prompt and noise, in the order of the audit's score names. truncated: the text
    was longer than the tokenizer takes. moments: by site, pooled over prompts, at pure noise.
    made_on: see `pipelines.identity`.
    """

    scores: Float64[Tensor, "rows noises scores"]
    truncated: Bool[Tensor, " rows"]
    moments: dict[str, Moments]
    made_on: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A pipeline under observation; close it, or use it in a `with`, to release the pipeline."""

    def __init__(
        self, pipeline: DiffusionPipeline, settings: Settings, batch_size: int | None = None
    ) -> None:
        self.driver = driver_of(pipeline, **settings.request)
        self.settings = settings
        self.unit = settings.unit or usual_unit(self.driver)
        self.probe = PROBES[settings.probe]
        self._units_at_once = max(1, (batch_size or 8 * self.unit) // self.unit)
        self._stack = ExitStack()
        self._taps = self._stack.enter_context(tap(self.driver))
        if isinstance(self._taps, GateTaps):
            seen, models = self._taps.traced.seen.values(), self.driver.models.values()
            self._stack.enter_context(captured(models, list(seen), wanted=settings.graphs))
        threads = torch.get_num_threads()
        self._stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(settings.threads)
        with torch.no_grad():
            self.scenes = [
                Scene(self.driver, self._taps, self._noise(number), settings)
                for number in range(settings.noises)
            ]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Put the pipeline back as it was."""
        self._stack.close()

    def block(
        self, prompts: Sequence[Prompt], names: Sequence[str], baselines: list[Baseline]
    ) -> Block:
        """Scores and pooled statistics of some prompts; `baselines`: one for each noise."""
        scores = torch.empty(len(prompts), self.settings.noises, len(names), dtype=torch.float64)
        found: list[tuple[list[int], int, Tensor]] = []  # on the device, until all are under way
        here = statistics_device(self.driver.device)
        baselines = [baseline.to(here) for baseline in baselines]
        seen: list[dict[str, Moments]] = [{}]
        for rows, looks_by_noise in self.looks(prompts):
            for noise, (looks, baseline) in enumerate(zip(looks_by_noise, baselines, strict=True)):
                found.append((rows, noise, score_looks(looks, names, baseline)[: len(rows)]))
                seen.append(looks[0].moments or {})
            if len(seen) >= POOLED_AT_ONCE:
                seen = [pooled(seen)]
        for rows, noise, values in found:
            scores[rows, noise] = values.cpu()
        moments = {site: m.to("cpu") for site, m in pooled(seen).items()}
        truncated = self.driver.truncated([prompt.text for prompt in prompts])
        return Block(scores, truncated, moments, made_on(self.driver.model))

    def looks(
        self, prompts: Sequence[Prompt], how: Looks | None = None
    ) -> Iterator[tuple[list[int], list[list[Look]]]]:
        """(places in `prompts`, looks by noise) for every unit of the prompts: first of those that
        share the audit's noises, then of those that bring a seed.

        The looks have `unit` rows, of which those past the places are padding. When memory runs
        out, fewer prompts are held at once and the unit is computed again: units, and so bits,
        stay. how: in place of the probe's looks. Raises InputError when one unit alone does not
        fit.
        """
        how = how or self.probe.looks
        for own in (False, True):
            places = [n for n, prompt in enumerate(prompts) if (prompt.seed is not None) == own]
            yield from self._looks([prompts[place] for place in places], places, own, how)

    def _looks(
        self, prompts: list[Prompt], places: list[int], own: bool, how: Looks
    ) -> Iterator[tuple[list[int], list[list[Look]]]]:
        if not prompts:
            return
        prepared = self.driver.prepare([prompt.text for prompt in prompts])
        done, total, size = 0, len(prompts), self.unit
        while done < total:
            part = slice(done, min(done + self._units_at_once * size, total))
            try:
                for looks in self._units(prepared[part], prompts[part] if own else None, how):
                    yield places[done : done + size], looks
                    done = min(done + size, total)
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self._units_at_once == 1:
                    raise InputError(
                        f"out of memory with {size} prompts a call, the least of "
                        "this audit; start another --out with a smaller --unit"
                    ) from error
            self._units_at_once //= 2
            self._taps.clear()
            release(self.driver.device)

    def _units(
        self, prepared: Any, seeded: list[Prompt] | None, how: Looks
    ) -> Iterator[list[list[Look]]]:
        """The looks of each unit; those of `seeded` prompts under noises of their own."""
        size = self.unit
        starts = range(0, len(prepared), size)
        units = [self._unit(prepared[start : start + size]) for start in starts]
        for start, unit in zip(starts, units, strict=True):
            with torch.no_grad():
                scenes = self._own_scenes(seeded[start : start + size]) if seeded else self.scenes
                looks = [how(scene, unit) for scene in scenes]
            yield looks

    def texts(self, texts: list[str]) -> Unit:
        """One unit of these texts."""
        return self._unit(self.driver.prepare(texts))

    def _unit(self, prepared: Any) -> Unit:
        """One unit, padded with its last prompt."""
        rows = len(prepared)
        kept = torch.arange(self.unit).clamp(max=rows - 1)
        return Unit(self.driver.embed(prepared[kept]), rows)

    def _own_scenes(self, prompts: list[Prompt]) -> Iterator[Scene]:
        """The scenes of one unit's prompts, padded as the unit is, with each one's own noises."""
        padded = prompts + prompts[-1:] * (self.unit - len(prompts))
        for number in range(self.settings.noises):
            seeds = [prompt.noise_seed(self.settings.seed, number) for prompt in padded]
            noise = self.driver.noise_of([torch.Generator().manual_seed(seed) for seed in seeds])
            yield Scene(self.driver, self._taps, noise, self.settings)

    def _noise(self, number: int) -> Tensor:
        return self.driver.initial_noise([f"audit noise {number}"], self.settings.seed)


def usual_unit(driver: Driver) -> int:
    """Prompts of a call where nobody says: what fills the device, halved until it fits."""
    unit = filling(driver)
    fits = unit if unit == FEWEST else driver.portion(unit).rows
    while unit > max(1, fits):
        unit //= 2
    return unit


def pooled(parts: Sequence[dict[str, Moments]]) -> dict[str, Moments]:
    """Statistics of several units by site, joined into one segment."""
    sites = {site: None for part in parts for site in part}
    return {
        site: Moments.cat([part[site] for part in parts if site in part]).pool() for site in sites
    }


def score_looks(
    looks: Sequence[Look], names: Sequence[str], baseline: Baseline | None
) -> Float64[Tensor, "rows scores"]:
    """The named scores of the looks of one noise; those of norms are NaN without a baseline. Parts
    of a score are of a look each, in their order, those at pure noise left out."""
    norms = looks[-1].norms
    parts = (look for look in looks if not look.start)
    columns = []
    for name in names:
        score = score_of(name)
        if score.of_looks:
            columns.append(score.of_looks([next(parts)] if PART in name else looks))
        elif score.of_norms and baseline:
            columns.append(score.of_norms(norms, baseline))
        else:
            columns.append(norms.new_full((len(norms),), torch.nan))
    return torch.stack(columns, 1)
