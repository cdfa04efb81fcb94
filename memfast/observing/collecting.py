"""collect: run prompts through a pipeline once and keep exact statistics of its neurons."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from typing_extensions import Unpack

from memfast.blocks.families import ffn_sites, find_sites
from memfast.errors import InputError
from memfast.memory.captured import captured
from memfast.observing.listening import Call, Listener
from memfast.observing.side_by_side import Places, Row, by_site, merge_in_order
from memfast.observing.tracing import trace
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.fitting import filling
from memfast.pipelines.identity import fingerprint, schedule_of, versions
from memfast.pipelines.schedule import Request, Schedule
from memfast.progress import Advance, only_stage
from memfast.prompts import Prompt, PromptSet, text_id
from memfast.statistics import NeuronStatistics

ROWS = ("conditional", "both")
PROMPTS = 32  # a batch, at most, where more keep the device no busier
_log = logging.getLogger("memfast")


@dataclass(frozen=True)
class Settings:
    """How prompts are run and what is kept of them; `collect` documents each."""

    steps: int
    schedule: Schedule
    seed: int = 0
    rows: str = "conditional"
    row_normalised: bool = False
    prompt_norms: bool = False
    shared_noise: bool = False
    padding: bool = False

    def __post_init__(self) -> None:
        if self.rows not in ROWS:
            raise InputError(f"rows must be one of {', '.join(ROWS)}, not {self.rows!r}")
        if not 1 <= self.steps <= self.schedule.num_inference_steps:
            raise InputError(
                "steps must lie between 1 and num_inference_steps "
                f"({self.schedule.num_inference_steps}), not {self.steps}"
            )

    def noise(self, prompt: Prompt) -> torch.Generator:
        """Where a prompt's noise comes from."""
        if self.shared_noise:
            return torch.Generator().manual_seed(self.seed)
        return torch.Generator().manual_seed(prompt.noise_seed(self.seed))

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "schedule"}
        return own | self.schedule.as_dict()


@torch.no_grad()
def collect(
    pipeline: DiffusionPipeline,
    prompts: PromptSet | Sequence[str | Prompt],
    *,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    rows: str = "conditional",
    row_normalised: bool = False,
    prompt_norms: bool = False,
    shared_noise: bool = False,
    padding: bool = False,
    graphs: bool = True,
    progress: bool | Advance = False,
    **asked: Unpack[Request],
) -> NeuronStatistics:
    """Statistics [steps, neurons] of every feed-forward over the token rows of all prompts.

    Only the first `steps` (10, or all of fewer) of the schedule's denoising steps are run,
    and no VAE; a step is one pass of the pipeline's loop (a scheduler of second order makes two of
    each of its own). Steps, guidance and size are the pipeline's own unless `asked` for
    (see Request), and the header records them as they took effect.
    A prompt's noise depends on its id and `seed` alone, and prompts are merged one by one in their
    order, so that neither the batch size nor the worker shapes the result; a prompt given twice
    counts twice. `shared_noise` starts every prompt from the same noise instead.
    `rows` takes the conditional half of guidance, or "both" halves (without guidance: the null
    caption's rows at the same latents); `row_normalised` divides each row by its L2 norm first
    (both as arXiv 2406.18566 was coded). Where text passes a feed-forward its padding is not
    counted, unless `padding` says so. `prompt_norms` also keeps the moments over prompts that the
    scores "z" and "welch" need, which doubles the state. `graphs`: on CUDA passes are
    replayed where that is safe, with the same bits (see `memory.captured`).

    A prompt whose activations are not finite leaves no trace in the statistics: it is logged and
    listed in `.skipped` with the first step and site. `progress`: True shows a bar; a function is
    told how many prompts each finished batch held.
    Raises InputError for an empty prompt set or settings that contradict each other or the model,
    and where no prompt's activations are finite.
    """
    driver = driver_of(pipeline, **asked)
    schedule = driver.schedule()
    settings = Settings(
        first_steps(schedule) if steps is None else steps,
        schedule,
        seed,
        rows,
        row_normalised,
        prompt_norms,
        shared_noise,
        padding,
    )
    prompts = PromptSet.of(prompts)
    if len(prompts) == 0:
        raise InputError("prompts: there are none")
    sites = ffn_sites(driver.model)
    norms_too = {f"norms of {path}": neurons for path, neurons in sites.items() if prompt_norms}
    state = [Places(sites | norms_too).empty(1)] * settings.steps
    kept = Kept(prompts.name)
    skipped: list[dict[str, Any]] = []
    advance = only_stage(progress, "collecting", len(prompts))

    def heard(batch: list[Prompt]) -> tuple[list[Row], list[Prompt], list[dict[str, Any]]]:
        """The state after a batch, merged whole or run again without its bad prompts; these."""
        left_out: list[dict[str, Any]] = []
        while batch:
            after, bad = _run(listener, batch, state, settings)
            if not bad:
                return after, batch, left_out
            left_out += [{"id": batch[place].id, **where} for place, where in bad.items()]
            batch = [prompt for place, prompt in enumerate(batch) if place not in bad]
        return state, batch, left_out

    with ExitStack() as stack:
        traced = stack.enter_context(
            trace(driver.model, row_normalised=row_normalised, driver=driver)
        )
        listener = Listener(
            driver, traced, schedule, without_prompt=rows == "both", padding=padding
        )
        together = 1 + (driver.guided(schedule) and driver.together)
        useful = batch_size or max(PROMPTS, filling(driver) // together)
        fitting = driver.portion(useful, rows=together)
        seen = list(traced.seen.values())
        stack.enter_context(
            captured(driver.models.values(), seen, wanted=graphs and traced.replayable)
        )
        for batch in batched(prompts, batch_size or fitting.rows, driver):
            parts = fitting.over(len(batch), lambda part, all=batch: (all[part], heard(all[part])))
            for whole, (after, good, bad) in parts:
                state = after
                skipped += bad
                kept.add(good)
                advance(len(whole))
    check_kept(kept, skipped)
    for entry in skipped:
        _log.warning("left out %(id)s: not finite at step %(step)s, %(site)s", entry)
    moments, norms = by_site([row.of_one() for row in state], sites)
    return NeuronStatistics(moments, header_of(driver, settings, kept), skipped, norms)


def first_steps(schedule: Schedule) -> int:
    """How many steps are looked at by default: the paper's 10, or all of fewer."""
    return min(10, schedule.num_inference_steps)


NAMED = 10_000  # prompts that a file names; of more it keeps the number and the digest


class Kept:
    """The prompts behind statistics, in bounded memory: their list's name, number, digest, and the
    first names."""

    def __init__(self, name: str, prompts: Iterable[Prompt] = ()):
        self.list = Path(name).name
        self.count, self.named, self._digest = 0, list[Prompt](), sha256()
        self.add(prompts)

    def add(self, prompts: Iterable[Prompt]) -> None:
        """Note further prompts."""
        for prompt in prompts:
            self.count += 1
            self._digest.update(prompt.identity)
            if len(self.named) < NAMED:
                self.named.append(prompt)

    def header(self) -> dict[str, Any]:
        """What a file says of them; the digest is that of a PromptSet of the same prompts."""
        return {
            "prompts": self.count,
            "lists": [self.list],
            "prompts_digest": [self._digest.hexdigest()],
            "prompt_ids": [prompt.id for prompt in self.named],
            "text_ids": [text_id(prompt.text) for prompt in self.named],
        }


def check_kept(kept: Kept, skipped: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError where every prompt was left out."""
    if not kept.count:
        first = skipped[0]
        raise InputError(
            f"no prompt's activations are finite: {first['id']} not at step {first['step']}, "
            f"{first['site']}; is it the model, or its dtype?"
        )


def header_of(driver: Driver, settings: Settings, kept: Kept) -> dict[str, Any]:
    """What statistics say of where they came from."""
    streams = {path: driver.stream(path) for path in find_sites(driver.model)}
    return {
        "quantity": "activation",
        "model": fingerprint(driver.model),
        "kind": driver.kind,
        "schedule": schedule_of(driver.pipeline),
        "size": list(driver.size),
        **({} if driver.frames is None else {"num_frames": driver.frames}),
        "text": {path: rows for path, rows in streams.items() if rows != "image"},
        **settings.as_dict(),
        **kept.header(),
        "versions": versions(),
    }


def batched(
    items: Iterable[Prompt], size: int, driver: Driver | None = None
) -> Iterator[list[Prompt]]:
    """Consecutive lists of `size` prompts; shorter where the next may not share a run of `driver`
    (see its `alike`), and at the end."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        if driver is None:
            yield batch
            continue
        part_of: dict[int, int] = {}
        for number, places in enumerate(driver.alike([prompt.text for prompt in batch])):
            part_of |= dict.fromkeys(places.tolist(), number)
        for _, places in groupby(range(len(batch)), part_of.__getitem__):
            yield [batch[place] for place in places]


Bad = dict[int, dict[str, Any]]  # place in the batch -> where it first was not finite


def _run(
    listener: Listener, batch: list[Prompt], state: list[Row], settings: Settings
) -> tuple[list[Row], Bad]:
    """Denoise one batch: the state after it, and the prompts that must not be in it.

    Nothing is read from the device before the batch's end.
    """
    after: list[Row] = []
    first: list[torch.Tensor] = []  # site that is not finite, by step and image
    sites = len(listener.places.sites)

    def end_of_step(step: int, call: Call) -> None:
        images = call[CONDITIONAL]
        if settings.rows == "both":
            images = call[UNCONDITIONAL].joined(images)
        first.append(images.first_not_finite())
        if settings.prompt_norms:
            images = images.with_norms()
        after.append(merge_in_order(state[step], images))

    sources = [settings.noise(prompt) for prompt in batch]
    listener.traced.clear()  # of a pass that was cut short
    listener.run([prompt.text for prompt in batch], sources, settings.steps, end_of_step)
    bad: Bad = {}
    for step, of_images in enumerate(torch.stack(first).tolist()):
        for place, site in enumerate(of_images):
            if site < sites:
                bad.setdefault(place, {"site": listener.places.name(site), "step": step})
    return after, bad
