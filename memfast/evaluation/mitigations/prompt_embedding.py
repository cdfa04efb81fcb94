"""Wen et al. 2024 (arXiv 2407.21720), at inference: the prompt's embedding is optimised.

Adam at 0.05 for at most 10 steps on the norm of the conditional minus the unconditional prediction
at the first denoising step; a prompt stops when its norm falls under a target.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.evaluation.mitigations.interface import Setting, Treated, in_batches, stacked
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.schedule import Schedule
from memfast.precision import Gradients, wide

STEPS, LEARNING_RATE = 10, 0.05
Time = int | float


def guidance_norm(
    driver: Driver, latents: Latents, time: Time, told: Conditioning, unconditional: Latents
) -> Float[Tensor, " images"]:
    """|conditional - unconditional noise prediction|, an image each. Differentiable."""
    conditional = driver.predict(latents, time, told)
    given, empty, latents = wide(conditional), wide(unconditional), wide(latents)
    difference = driver.path.noise(given, latents, time) - driver.path.noise(empty, latents, time)
    return difference.flatten(1).norm(dim=1)


def lowered(
    driver: Driver,
    texts: Sequence[str],
    ids: Sequence[str],
    seed: int,
    time: Time,
    target: float,
) -> Conditioning:
    """The prompts' conditioning after the optimisation of every leaf that may be searched."""
    latents = driver.initial_noise(ids, seed)
    with torch.no_grad():
        unconditional = driver.predict(latents, time, driver.no_prompt.expand(len(ids)))
    start = driver.encode(list(texts))
    sought = start.sought()
    optimiser = torch.optim.Adam(sought.values(), lr=LEARNING_RATE)
    gradients_by = Gradients(driver.model)
    for _ in range(STEPS):
        norms = guidance_norm(driver, latents, time, start.found(sought), unconditional)
        active = norms.detach() > target
        if not active.any():
            break
        gradients = gradients_by.of(norms.sum(), list(sought.values()))
        before = {name: leaf.detach().clone() for name, leaf in sought.items()}
        for leaf, gradient in zip(sought.values(), gradients, strict=True):
            leaf.grad = gradient
        optimiser.step()
        with torch.no_grad():
            for name, leaf in sought.items():
                leaf[~active] = before[name][~active]
    return start.found(sought).searched_by(Tensor.detach)


def optimised(setting: Setting) -> Treated:
    """Target: the median norm of the reference captions, so that it needs no tuning a model."""
    driver, time = setting.driver, setting.driver.times(setting.schedule)[0]
    norms = []
    with torch.no_grad():
        for texts, ids in in_batches(setting.reference.texts, setting.reference.ids):
            latents = driver.initial_noise(ids, setting.seed)
            unconditional = driver.predict(latents, time, driver.no_prompt.expand(len(ids)))
            norms.append(guidance_norm(driver, latents, time, driver.encode(texts), unconditional))
    target = float(torch.cat(norms).median())

    def generate(
        driver: Driver,
        texts: Sequence[str],
        ids: Sequence[str],
        seed: int,
        schedule: Schedule,
    ) -> Tensor:
        images = []
        for some, names in in_batches(texts, ids):
            told = lowered(driver, some, names, seed, time, target)
            images.append(driver.generate(told, names, seed, schedule))
        return stacked(images)

    return Treated(driver, generate)
