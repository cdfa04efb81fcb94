"""Training images as tensors, and clean latents of prompts that name one or do not."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from memfast.errors import InputError
from memfast.images import fit, is_url, read_image, without_place
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.schedule import Schedule
from memfast.prompts import Prompt


def picture(source: str, size: tuple[int, int]) -> Float[Tensor, "3 height width"]:
    """The central part of an image, scaled to `size`, in [0, 1].

    Raises InputError where it cannot be read.
    """
    return torch.from_numpy(fit(read_image(source), size).copy())


def to_pil(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """An RGB picture of an image in [0, 1]; values outside are clipped."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def clean_latents(
    driver: Driver,
    prompts: Sequence[Prompt],
    schedule: Schedule,
    seed: int,
    notes: list[str] | None = None,
) -> Latents:
    """Clean latents of the training images, or else of the images that the model makes.

    notes: is told of every image that cannot be read; the model's own stands in for it.
    """
    given: dict[int, Tensor] = {}
    for place, prompt in enumerate(prompts):
        if prompt.image is not None and not is_url(prompt.image):
            try:
                given[place] = picture(prompt.image, driver.size)
            except InputError as error:
                if notes is not None:
                    why = without_place(error, prompt.image)
                    notes.append(f"{prompt.id}: {why}; the model's own stands in")
    made = [place for place in range(len(prompts)) if place not in given]
    latents: dict[int, Tensor] = {}
    if made:
        images = driver.generate(
            driver.encode([prompts[place].text for place in made]),
            [prompts[place].id for place in made],
            seed,
            schedule,
        )
        latents |= zip(made, driver.encode_images(images), strict=True)
    latents |= {k: driver.encode_images(image[None])[0] for k, image in given.items()}
    return torch.stack([latents[place] for place in range(len(prompts))])
