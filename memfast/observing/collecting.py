"""collect: run prompts through a pipeline once and keep exact statistics of its neurons."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import accumulate, islice
from typing import Any

import torch
from diffusers import DiffusionPipeline
from memfast_kernels import Moments, merge

from memfast.blocks.families import ffn_sites
from memfast.errors import InputError
from memfast.observing.listening import Call, listen
from memfast.observing.side_by_side import by_site, merge_in_order, side_by_side
from memfast.observing.tracing import Trace, trace
from memfast.pipelines.identity import fingerprint, schedule_of, versions
from memfast.pipelines.loading import denoiser_of
from memfast.pipelines.noise import generator
from memfast.prompts import Prompt, PromptSet, text_id
from memfast.statistics import NeuronStatistics

ROWS = ("conditional", "both")
_log = logging.getLogger("memfast")


@dataclass(frozen=True)
class Settings:
    """How prompts are run and what is kept of them; `collect` documents each."""

    steps: int = 10
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    seed: int = 0
    rows: str = "conditional"
    row_normalised: bool = False
    prompt_norms: bool = False
    shared_noise: bool = False

    def __post_init__(self) -> None:
        if self.rows not in ROWS:
            raise InputError(f"rows must be one of {', '.join(ROWS)}, not {self.rows!r}")
        if not 1 <= self.steps <= self.num_inference_steps:
            raise InputError(
                f"steps must lie between 1 and num_inference_steps ({self.num_inference_steps}), "
                f"not {self.steps}"
            )

    def noise(self, prompt: Prompt) -> torch.Generator:
        """Where a prompt's noise comes from."""
        if self.shared_noise:
            return torch.Generator().manual_seed(self.seed)
        return generator(prompt.id, self.seed)


@torch.no_grad()
def collect(
    pipeline: DiffusionPipeline,
    prompts: PromptSet | Sequence[str | Prompt],
    *,
    steps: int = 10,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    seed: int = 0,
    batch_size: int | None = None,
    rows: str = "conditional",
    row_normalised: bool = False,
    prompt_norms: bool = False,
    shared_noise: bool = False,
    progress: Callable[[int], None] | None = None,
) -> NeuronStatistics:
    """Statistics [steps, neurons] of every feed-forward over the token rows of all prompts.

    Only the first `steps` of `num_inference_steps` denoising steps are run, and no VAE; a step is
    one pass of the pipeline's loop (a scheduler of second order makes two of each of its own).
    A prompt's noise depends on its id and `seed` alone, and prompts are merged one by one in their
    order, so that neither the batch size nor the worker shapes the result; a prompt given twice
    counts twice. `shared_noise` starts every prompt from the same noise instead.
    `rows` takes the conditional half of the guided batch, or "both" halves; `row_normalised`
    divides each row by its L2 norm first (both as arXiv 2406.18566 was coded). `prompt_norms` also
    keeps the moments over prompts that the scores "z" and "welch" need, which doubles the state.

    A prompt whose activations are not finite leaves no trace in the statistics: it is logged and
    listed in `.skipped` with the first step and site. `progress` is told how many prompts each
    finished batch held.
    Raises InputError for an empty prompt set or settings that contradict each other or the model.
    """
    settings = Settings(
        steps,
        num_inference_steps,
        guidance_scale,
        seed,
        rows,
        row_normalised,
        prompt_norms,
        shared_noise,
    )
    prompts = PromptSet.of(prompts)
    if len(prompts) == 0:
        raise InputError("prompts: there are none")
    model = denoiser_of(pipeline)
    sites = ffn_sites(model)
    width = sum(sites.values()) * (2 if prompt_norms else 1)
    state = [Moments.empty(width, 1) for _ in range(steps)]
    kept = Kept()
    skipped: list[dict[str, Any]] = []
    with trace(model, row_normalised=row_normalised) as traced:
        for batch in batched(prompts, batch_size or _default_batch(model)):
            size = len(batch)
            while batch:  # a batch is merged whole, or run again without its bad prompts
                after, bad = _run(pipeline, traced, batch, state, settings)
                if not bad:
                    state = after
                    break
                skipped += [{"id": batch[place].id, **where} for place, where in bad.items()]
                batch = [prompt for place, prompt in enumerate(batch) if place not in bad]
            kept.add(batch)
            if progress:
                progress(size)
    for entry in skipped:
        _log.warning("left out %(id)s: not finite at step %(step)s, %(site)s", entry)
    moments, norms = by_site(state, sites)
    return NeuronStatistics(moments, header_of(pipeline, settings, kept), skipped, norms)


NAMED = 10_000  # prompts that a file names; of more it keeps the number and the digest


class Kept:
    """The prompts behind statistics, in bounded memory: number, digest, and the first names."""

    def __init__(self, prompts: Iterable[Prompt] = ()):
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
            "prompts_digest": [self._digest.hexdigest()],
            "prompt_ids": [prompt.id for prompt in self.named],
            "text_ids": [text_id(prompt.text) for prompt in self.named],
        }


def header_of(pipeline: DiffusionPipeline, settings: Settings, kept: Kept) -> dict[str, Any]:
    """What statistics say of where they came from."""
    return {
        "quantity": "activation",
        "model": fingerprint(denoiser_of(pipeline)),
        "schedule": schedule_of(pipeline),
        **asdict(settings),
        **kept.header(),
        "versions": versions(),
    }


def batched(items: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Consecutive lists of `size` prompts; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


Bad = dict[int, dict[str, Any]]  # place in the batch -> where it first was not finite


def _run(
    pipeline: DiffusionPipeline,
    traced: Trace,
    batch: list[Prompt],
    state: list[Moments],
    settings: Settings,
) -> tuple[list[Moments], Bad]:
    """Denoise one batch: the state after it, and the prompts that must not be in it."""
    after: list[Moments] = []
    bad: Bad = {}

    def end_of_step(step: int, call: Call) -> None:
        images = side_by_side(_rows(call, settings.rows), settings.prompt_norms)
        finite = images.m2.isfinite().flatten(1)
        for place in (~finite.all(1)).nonzero().flatten().tolist():
            where = {"site": _site_of(finite[place], traced), "step": step}
            bad.setdefault(place, where)
        after.append(state[step] if bad else merge_in_order(state[step], images))

    with listen(pipeline, traced, len(batch), settings.steps, end_of_step) as callback:
        pipeline(  # type: ignore[operator]
            prompt=[prompt.text for prompt in batch],
            generator=[settings.noise(prompt) for prompt in batch],
            output_type="latent",
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=[],
        )
    if len(after) < settings.steps:
        raise InputError(f"steps: the schedule makes only {len(after)}, not {settings.steps}")
    return after, bad


def _rows(call: Call, rows: str) -> dict[str, Moments]:
    """Each site's statistics of the rows that were asked for, one segment an image."""
    if rows == "conditional":
        return call["conditional"]
    if "unconditional" not in call:
        raise InputError("rows 'both' needs guidance: this pipeline ran conditional rows alone")
    unconditional = call["unconditional"]
    return {site: merge(unconditional[site], m) for site, m in call["conditional"].items()}


def _site_of(finite: torch.Tensor, traced: Trace) -> str:
    """The first site with a neuron that is not finite, in `finite` [neurons side by side]."""
    place = int((~finite).nonzero()[0])
    ends = accumulate(site.neurons for site in traced.sites.values())
    return next(path for path, end in zip(traced.sites, ends, strict=True) if place < end)


def _default_batch(model: torch.nn.Module) -> int:
    """As many prompts as keep a small model busy, few for a large one."""
    parameters = sum(p.numel() for p in model.parameters())
    return 32 if parameters < 1e8 else 4 if parameters < 1.5e9 else 1
