"""Wen et al. 2024 (arXiv 2407.21720), at inference: the prompt's embedding is optimised.

Adam at 0.05 for at most 10 steps on the norm of the conditional minus the unconditional prediction
at the first denoising step; a prompt stops when its norm falls under a target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from memfast.evaluation.mitigations.interface import Setting, Treated, in_batches, stacked
from memfast.pipelines.denoising import Denoiser, Schedule

STEPS, LEARNING_RATE = 10, 0.05


def guidance_norm(
    denoiser: Denoiser, latents: Tensor, timestep: int, embeddings: Tensor, unconditional: Tensor
) -> Tensor:
    """|conditional - unconditional noise prediction|, an image each: [n]. Differentiable."""
    conditional = denoiser.predict(latents, timestep, embeddings)
    difference = denoiser.epsilon(conditional, latents, timestep) - denoiser.epsilon(
        unconditional, latents, timestep
    )
    return difference.flatten(1).norm(dim=1)


def first_timestep(denoiser: Denoiser, schedule: Schedule) -> int:
    """The scheduler's noisiest timestep for this schedule."""
    denoiser.scheduler.set_timesteps(schedule["num_inference_steps"])
    return int(denoiser.scheduler.timesteps[0])


def lowered(
    denoiser: Denoiser,
    texts: Sequence[str],
    ids: Sequence[str],
    seed: int,
    time: int,
    target: float,
) -> Tensor:
    """The prompts' embeddings after the optimisation."""
    latents = denoiser.initial_noise(ids, seed)
    empty = denoiser.encode([""]).expand(len(ids), -1, -1)
    with torch.no_grad():
        unconditional = denoiser.predict(latents, time, empty)
    start = denoiser.encode(list(texts))
    full = torch.promote_types(start.dtype, torch.float32)  # Adam's epsilon is 0 in half precision
    embedding = start.to(full, copy=True).requires_grad_()
    optimiser = torch.optim.Adam([embedding], lr=LEARNING_RATE)
    for _ in range(STEPS):
        now = embedding.to(start.dtype)
        norms = guidance_norm(denoiser, latents, time, now, unconditional)
        active = norms.detach() > target
        if not active.any():
            break
        (embedding.grad,) = torch.autograd.grad(norms.sum(), embedding)
        before = embedding.detach().clone()
        optimiser.step()
        with torch.no_grad():
            embedding[~active] = before[~active]
    return embedding.detach().to(start.dtype)


def optimised(setting: Setting) -> Treated:
    """Target: the median norm of the reference captions, so that it needs no tuning a model."""
    denoiser, time = setting.denoiser, first_timestep(setting.denoiser, setting.schedule)
    norms = []
    with torch.no_grad():
        for texts, ids in in_batches(setting.reference.texts, setting.reference.ids):
            latents = denoiser.initial_noise(ids, setting.seed)
            empty = denoiser.encode([""]).expand(len(ids), -1, -1)
            unconditional = denoiser.predict(latents, time, empty)
            norms.append(
                guidance_norm(denoiser, latents, time, denoiser.encode(texts), unconditional)
            )
    target = float(torch.cat(norms).median())

    def generate(
        denoiser: Denoiser,
        texts: Sequence[str],
        ids: Sequence[str],
        seed: int,
        schedule: Schedule,
    ) -> Tensor:
        images = []
        for some, names in in_batches(texts, ids):
            embeddings = lowered(denoiser, some, names, seed, time, target)
            images.append(denoiser.generate(embeddings, names, seed, **schedule))
        return stacked(images)

    return Treated(denoiser, generate)
