"""collect_gradients: how much the denoising loss of each prompt depends on each neuron."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from memfast_kernels import Moments, merge
from PIL import Image
from torch import Tensor

from memfast.blocks.families import Site, find_sites
from memfast.errors import InputError
from memfast.observing.collecting import Kept, Settings, batched, header_of
from memfast.observing.scaling import gated, open_gates
from memfast.observing.side_by_side import by_site, sample
from memfast.pipelines.denoising import Denoiser
from memfast.pipelines.noise import generator
from memfast.prompts import Prompt, PromptSet
from memfast.statistics import NeuronStatistics


def collect_gradients(
    pipeline: StableDiffusionPipeline,
    prompts: PromptSet | Sequence[str | Prompt],
    *,
    steps: int = 10,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> NeuronStatistics:
    """Statistics [steps, neurons] over prompts of activation · gradient of the denoising loss.

    Each prompt counts once: with the sum over its token rows of H · dL/dH, which is the first-order
    change of its loss L (`Denoiser.loss`) when the neuron is removed. The image is the prompt's
    training image where it names a file, else what the model generates for it; it is noised to the
    first `steps` timesteps of the schedule, with noise that depends on id and `seed` alone.
    Prompts whose gradients are not finite are left out and listed in `.skipped`.
    Raises InputError for an empty prompt set, an image that cannot be read, and pipelines that are
    not built as StableDiffusionPipeline is.
    """
    settings = Settings(steps, num_inference_steps, guidance_scale, seed)
    prompts = PromptSet.of(prompts)
    if len(prompts) == 0:
        raise InputError("prompts: there are none")
    denoiser = Denoiser(pipeline)
    sites = find_sites(denoiser.model)
    denoiser.scheduler.set_timesteps(num_inference_steps)
    timesteps = denoiser.scheduler.timesteps[:steps].long()
    width = sum(site.neurons for site in sites.values())
    state = Moments.empty(steps * width, 1)
    kept = Kept()
    skipped: list[dict[str, Any]] = []
    small = sum(p.numel() for p in denoiser.model.parameters()) < 1e8
    for batch in batched(prompts, batch_size or (16 if small else 1)):
        clean = clean_latents(denoiser, batch, settings)
        values = _of_batch(
            denoiser, sites, batch, clean, timesteps, seed
        )  # [images, steps·neurons]
        for prompt, value in zip(batch, values, strict=True):
            if value.isfinite().all():
                state = merge(state, sample(value[:, None].double()))
                kept.add([prompt])
            else:
                step = int((~value.isfinite()).nonzero()[0]) // width
                skipped.append({"id": prompt.id, "step": step, "site": "gradient"})
        if progress:
            progress(len(batch))
    by_step = [state.select(slice(step * width, (step + 1) * width)) for step in range(steps)]
    moments, _ = by_site(by_step, {path: site.neurons for path, site in sites.items()})
    header = header_of(pipeline, settings, kept) | {"quantity": "gradient"}
    return NeuronStatistics(moments, header, skipped)


def _of_batch(
    denoiser: Denoiser,
    sites: dict[str, Site],
    batch: list[Prompt],
    clean: Tensor,
    timesteps: Tensor,
    seed: int,
) -> Float[Tensor, "images values"]:
    """Gate gradients of each image, steps after steps, on the CPU."""
    embeddings = denoiser.encode([prompt.text for prompt in batch])
    generators = [generator(prompt.id, seed) for prompt in batch]
    values = []
    for timestep in timesteps:
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
        gates = open_gates(sites, len(batch))
        with torch.enable_grad(), gated(sites, gates):
            loss = denoiser.loss(clean, embeddings, noise.to(clean), timestep)
            gradients = torch.autograd.grad(loss.sum(), list(gates.values()))
        values += [gradient.float().cpu() for gradient in gradients]
    return torch.cat(values, 1)


def clean_latents(denoiser: Denoiser, batch: list[Prompt], settings: Settings) -> Tensor:
    """Clean latents of the training images, or else of the images that the model makes."""
    made = [prompt for prompt in batch if not _has_image(prompt)]
    latents: dict[str, Tensor] = {}
    if made:
        images = denoiser.generate(
            denoiser.encode([prompt.text for prompt in made]),
            [prompt.id for prompt in made],
            settings.seed,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
        )
        latents |= zip([p.id for p in made], denoiser.encode_images(images), strict=True)
    for prompt in batch:
        if prompt.id not in latents:
            latents[prompt.id] = denoiser.encode_images(_image(denoiser, prompt))[0]
    return torch.stack([latents[prompt.id] for prompt in batch])


def _has_image(prompt: Prompt) -> bool:
    return prompt.image is not None and "://" not in prompt.image


def _image(denoiser: Denoiser, prompt: Prompt) -> Tensor:
    """The training image at the model's size (its centre, where the shape differs), in [0, 1]."""
    side = denoiser.model.config.sample_size * denoiser.pipeline.vae_scale_factor
    try:
        with Image.open(Path(str(prompt.image))) as file:
            picture = file.convert("RGB")
    except OSError as error:
        raise InputError(f"prompt {prompt.id}: image {prompt.image} cannot be read") from error
    processor = denoiser.pipeline.image_processor
    return processor.preprocess(picture, side, side, resize_mode="crop") / 2 + 0.5
