"""collect_gradients: how much the denoising loss of each prompt depends on each neuron."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from memfast_kernels import Moments, merge
from torch import Tensor
from typing_extensions import Unpack

from memfast.blocks.families import Site, find_sites
from memfast.errors import InputError
from memfast.observing.collecting import Kept, Settings, batched, check_kept, first_steps, header_of
from memfast.observing.scaling import gated, open_gates
from memfast.observing.side_by_side import by_site, sample
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.pipelines.pictures import clean_latents
from memfast.pipelines.schedule import Request
from memfast.precision import Gradients
from memfast.progress import Advance, only_stage
from memfast.prompts import Prompt, PromptSet
from memfast.statistics import NeuronStatistics

PROMPTS = 16  # a batch, at most


def collect_gradients(
    pipeline: DiffusionPipeline,
    prompts: PromptSet | Sequence[str | Prompt],
    *,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | Advance = False,
    **asked: Unpack[Request],
) -> NeuronStatistics:
    """Statistics [steps, neurons] over prompts of activation · gradient of the denoising loss.

    Each prompt counts once: with the sum over its token rows of H · dL/dH, which is the first-order
    change of its loss L (`Driver.loss`) when the neuron is removed. The image is the prompt's
    training image where it names a file, else what the model generates for it; it is noised to the
    first `steps` times of the schedule, with noise that depends on id and `seed` alone. Steps,
    guidance and size as in `collect`.
    `progress`: as `collect`'s.
    Prompts whose gradients are not finite are left out and listed in `.skipped`.
    An image that cannot be read is noted in the header, and the model's own stands in for it.
    Raises InputError for an empty prompt set, and pipelines that no driver knows.
    """
    driver = driver_of(pipeline, **asked)
    schedule = driver.schedule()
    steps = first_steps(schedule) if steps is None else steps
    settings = Settings(steps, schedule, seed)
    prompts = PromptSet.of(prompts)
    if len(prompts) == 0:
        raise InputError("prompts: there are none")
    sites = find_sites(driver.model)
    times = driver.times(schedule)[:steps]
    width = sum(site.neurons for site in sites.values())
    state = Moments.empty(steps * width, 1)
    kept = Kept(prompts.name)
    notes: list[str] = []
    advance = only_stage(progress, "gradients", len(prompts))
    skipped: list[dict[str, Any]] = []

    def of_batch(batch: list[Prompt]) -> tuple[list[Prompt], Tensor]:
        clean = clean_latents(driver, batch, schedule, seed, notes)
        return batch, _of_batch(driver, sites, batch, clean, times, seed)

    fitting = driver.portion(batch_size or PROMPTS, gradients=True)
    for whole in batched(prompts, batch_size or fitting.rows):
        for batch, values in fitting.over(len(whole), lambda part, all=whole: of_batch(all[part])):
            for prompt, value in zip(batch, values, strict=True):
                if value.isfinite().all():
                    state = merge(state, sample(value[:, None].double()))
                    kept.add([prompt])
                    continue
                step = int((~value.isfinite()).nonzero()[0]) // width
                skipped.append({"id": prompt.id, "step": step, "site": "gradient"})
            advance(len(batch))
    check_kept(kept, skipped)
    by_step = [state.select(slice(step * width, (step + 1) * width)) for step in range(steps)]
    moments, _ = by_site(by_step, {path: site.neurons for path, site in sites.items()})
    header = header_of(driver, settings, kept) | {
        "quantity": "gradient",
        "notes": [*dict.fromkeys(notes)],
    }
    return NeuronStatistics(moments, header, skipped)


def _of_batch(
    driver: Driver,
    sites: dict[str, Site],
    batch: list[Prompt],
    clean: Tensor,
    times: Sequence[int | float],
    seed: int,
) -> Float[Tensor, "images values"]:
    """Gate gradients of each image, steps after steps, on the CPU."""
    conditioning = driver.encode([prompt.text for prompt in batch])
    generators = [generator(prompt.id, seed) for prompt in batch]
    values = []
    for time in times:
        noise = driver.noise_of(generators)
        gates = open_gates(sites, len(batch), driver.device)
        with torch.enable_grad(), gated(sites, gates, driver=driver):
            loss = driver.loss(clean, conditioning, noise, time)
            gradients = Gradients(driver.model).of(
                loss.sum(), list(gates.values()), materialize_grads=True
            )
        values += [gradient.float().cpu() for gradient in gradients]
    return torch.cat(values, 1)
