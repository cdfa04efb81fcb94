"""Training images as tensors, and clean latents of prompts that name one or do not."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.images import fit, is_url, read_image
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.schedule import Schedule
from memfast.prompts import Prompt


def picture(source: str, size: tuple[int, int]) -> Float[Tensor, "3 height width"]:
    """The central part of an image, scaled to `size`, in [0, 1].

    Raises InputError where it cannot be read.
    """
    return torch.from_numpy(fit(read_image(source), size).copy())


def has_picture(prompt: Prompt) -> bool:
    """Whether a prompt names an image that may be a file."""
    return prompt.image is not None and not is_url(prompt.image)


def clean_latents(
    driver: Driver, prompts: Sequence[Prompt], schedule: Schedule, seed: int
) -> Latents:
    """Clean latents of the training images, or else of the images that the model makes.

    Raises InputError for an image that cannot be read.
    """
    made = [prompt for prompt in prompts if not has_picture(prompt)]
    latents: dict[str, Tensor] = {}
    if made:
        images = driver.generate(
            driver.encode([prompt.text for prompt in made]),
            [prompt.id for prompt in made],
            seed,
            schedule,
        )
        latents |= zip([p.id for p in made], driver.encode_images(images), strict=True)
    for prompt in prompts:
        if prompt.id not in latents:
            latents[prompt.id] = driver.encode_images(
                picture(str(prompt.image), driver.size)[None]
            )[0]
    return torch.stack([latents[prompt.id] for prompt in prompts])
