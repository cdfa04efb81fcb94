"""collect: run prompts through a pipeline once and keep exact statistics of its neurons."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from typing import Any

import torch
from diffusers import DiffusionPipeline
from memfast_kernels import Moments, merge

from memfast.errors import InputError
from memfast.models.families import ffn_sites
from memfast.models.noise import generator
from memfast.models.pipelines import denoiser_of, fingerprint, versions
from memfast.models.tracing import Trace, trace
from memfast.prompts import Prompt, PromptSet
from memfast.statistics import NeuronStatistics

ROWS = ("conditional", "both")


@torch.no_grad()
def collect(
    pipeline: DiffusionPipeline,
    prompts: PromptSet | Sequence[str],
    *,
    steps: int = 10,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    seed: int = 0,
    batch_size: int | None = None,
    rows: str = "conditional",
    row_normalised: bool = False,
    progress: Callable[[int], None] | None = None,
) -> NeuronStatistics:
    """Statistics [steps, neurons] of every feed-forward over the token rows of all prompts.

    Only the first `steps` of `num_inference_steps` denoising steps are run, and no VAE. A prompt's
    noise depends on its id and `seed` alone, and prompts are merged one by one in their order, so
    that neither the batch size nor the worker shapes the result. `rows` takes the conditional half
    of the guided batch, or both halves; `row_normalised` divides each row by its L2 norm first
    (both as arXiv 2406.18566 was coded). A prompt whose activations are not finite is left out and
    listed in `.skipped`. `progress` is told how many prompts each finished batch held.
    Raises InputError for an empty prompt set or settings that contradict each other.
    """
    prompts = prompts if isinstance(prompts, PromptSet) else PromptSet.of(prompts)
    if rows not in ROWS:
        raise InputError(f"rows must be one of {', '.join(ROWS)}, not {rows!r}")
    if not 1 <= steps <= num_inference_steps:
        raise InputError(
            f"steps must lie between 1 and num_inference_steps ({num_inference_steps}), not {steps}"
        )
    model = denoiser_of(pipeline)
    header = {
        "model": fingerprint(model),
        "scheduler": type(pipeline.scheduler).__name__,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "rows": rows,
        "row_normalised": row_normalised,
        "prompts": len(prompts),
        "prompts_digest": [prompts.digest],
        "versions": versions(),
    }
    if header["prompts"] == 0:
        raise InputError("prompts: there are none")
    statistics = NeuronStatistics.zeros(ffn_sites(model), steps, header)
    settings = dict(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
    with trace(model, row_normalised=row_normalised) as traced:
        for batch in batched(prompts, batch_size or _default_batch(pipeline)):
            size = len(batch)
            while batch:
                seen = _run(pipeline, traced, batch, steps, seed, settings)
                bad = _not_finite(batch, seen, rows)
                if not bad:
                    _fold(statistics, seen, rows)
                    break
                statistics.skipped += bad
                batch = [p for p in batch if p.id not in {entry["id"] for entry in bad}]
            if progress:
                progress(size)
    statistics.header["prompts"] -= len(statistics.skipped)
    return statistics


def batched(items: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Consecutive lists of `size` prompts; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


Seen = list[
    dict[str, tuple[Moments | None, Moments]]
]  # step -> site -> (unconditional, conditional)


def _run(
    pipeline: DiffusionPipeline,
    traced: Trace,
    batch: list[Prompt],
    steps: int,
    seed: int,
    settings: dict[str, Any],
) -> Seen:
    """Denoise one batch for `steps` steps; one entry a step."""
    seen: Seen = []
    with _calls(pipeline, traced, len(batch)) as calls:

        def end_of_step(pipe: Any, step: int, timestep: Any, kwargs: dict) -> dict:
            halves: dict[str, dict[str, Moments]] = {}
            for call in calls:
                halves |= call
            calls.clear()
            seen.append(
                {
                    site: (halves.get("unconditional", {}).get(site), moments)
                    for site, moments in halves["conditional"].items()
                }
            )
            if step + 1 == steps:
                pipe._interrupt = True
            return {}

        pipeline(
            prompt=[prompt.text for prompt in batch],
            generator=[generator(prompt.id, seed) for prompt in batch],
            output_type="latent",
            callback_on_step_end=end_of_step,
            callback_on_step_end_tensor_inputs=[],
            **settings,
        )
    return seen


@contextmanager
def _calls(pipeline: DiffusionPipeline, traced: Trace, images: int) -> Iterator[list[dict]]:
    """Collects {"conditional" | "unconditional": {site: moments}} of each denoiser call.

    Guidance comes batched (unconditional rows first), or as separate calls that the pipeline
    names by `cache_context`, or not at all.
    """
    model = denoiser_of(pipeline)
    calls: list[dict[str, dict[str, Moments]]] = []
    context = ["cond"]
    named = getattr(model, "cache_context", None)

    def after_forward(*_: Any) -> None:
        moments = traced.drain()
        segments = {site: m.count.shape[0] for site, m in moments.items()}
        guided = all(n == 2 * images for n in segments.values())
        if guided:
            parts = {"unconditional": slice(0, images), "conditional": slice(images, 2 * images)}
        elif all(n == images for n in segments.values()):
            half = "unconditional" if "uncond" in context[0] else "conditional"
            parts = {half: slice(0, images)}
        else:
            raise InputError(f"cannot tell conditional from unconditional rows: {segments}")
        calls.append(
            {
                half: {site: m.select(part) for site, m in moments.items()}
                for half, part in parts.items()
            }
        )

    handle = model.register_forward_hook(after_forward)
    if named is not None:

        @contextmanager
        def noted(name: str) -> Iterator[None]:
            context[0] = name
            with named(name):
                yield
            context[0] = "cond"

        model.cache_context = noted  # type: ignore[assignment]
    try:
        yield calls
    finally:
        handle.remove()
        if named is not None:
            del model.cache_context


def _not_finite(batch: list[Prompt], seen: Seen, rows: str) -> list[dict[str, Any]]:
    """Where each prompt's activations first stopped being finite."""
    found: dict[str, dict[str, Any]] = {}
    for step, sites in enumerate(seen):
        for site, halves in sites.items():
            for moments in _halves(halves, rows):
                finite = moments.m2.isfinite().all(dim=1).tolist()
                for prompt, fine in zip(batch, finite, strict=True):
                    if not fine:
                        found.setdefault(prompt.id, {"id": prompt.id, "site": site, "step": step})
    return list(found.values())


def _halves(halves: tuple[Moments | None, Moments], rows: str) -> list[Moments]:
    unconditional, conditional = halves
    return [m for m in (unconditional if rows == "both" else None, conditional) if m is not None]


def _fold(statistics: NeuronStatistics, seen: Seen, rows: str) -> None:
    """Merge image after image, so that the batch size leaves no trace in the result."""
    for site, state in statistics.moments.items():
        by_step = [_halves(sites[site], rows) for sites in seen]
        for image in range(by_step[0][0].count.shape[0]):
            for half in range(len(by_step[0])):
                rows_of_image = _stack(
                    [halves[half].select(slice(image, image + 1)) for halves in by_step]
                )
                state = merge(state, rows_of_image)
        statistics.moments[site] = state


def _stack(parts: list[Moments]) -> Moments:
    """One segment for each part's only segment."""
    return Moments(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Moments)))


def _default_batch(pipeline: DiffusionPipeline) -> int:
    """As many prompts as keep a small model busy, few for a large one."""
    parameters = sum(p.numel() for p in denoiser_of(pipeline).parameters())
    return 16 if parameters < 1e8 else 4 if parameters < 1.5e9 else 1
