"""The second look: pictures of the most suspicious prompts, and whether seeds agree on one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from memfast.auditing.looking.settings import Settings
from memfast.errors import InputError
from memfast.images import without_place
from memfast.measuring.distances import ssim, tiled_l2
from memfast.measuring.extraction import Cliques
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.pictures import picture
from memfast.prompts import Prompt

TEXTS_A_BATCH = 16
AGREEING = 0.5  # share of the seeds that must make one picture


@dataclass(frozen=True)
class Verified:
    """What several seeds made of one prompt.

    clique: of the images, the share in the largest group that are all near each other (tiled L2
    below 0.15, arXiv 2301.13188). seed_ssim: mean SSIM of pairs of seeds. own_ssim, own_tiled_l2:
    the nearest image to the training image, where one is given. replicates: half of the seeds or
    more, and at least two, make one picture. images: [seeds, 3, height, width] in [0, 1]. note: why
    its training image could not be used.
    """

    rank: int
    id: str
    prompt: str
    clique: float
    seed_ssim: float
    own_ssim: float | None
    own_tiled_l2: float | None
    replicates: bool
    images: Float[Tensor, "seeds 3 height width"] = field(repr=False)
    own: Float[Tensor, "3 height width"] | None = field(repr=False)
    note: str | None = None

    def figures(self) -> dict[str, Any]:
        """All but the pictures."""
        return {k: v for k, v in asdict(self).items() if k not in ("images", "own")}


@torch.no_grad()
def verify(
    pipeline: DiffusionPipeline,
    rows: Sequence[dict[str, Any]],
    seeds: int,
    settings: Settings,
    progress: Callable[[int], None],
) -> Iterator[Verified]:
    """Generate `seeds` images for each row (rank, id, prompt, asked) and compare them.

    An image depends on its prompt's id, the seed (the prompt's own, where it has one) and the
    settings' schedule and guidance alone.
    """
    driver = driver_of(pipeline, **settings.request)
    for start in range(0, len(rows), TEXTS_A_BATCH):
        batch = rows[start : start + TEXTS_A_BATCH]
        conditioning = driver.encode([row["prompt"] for row in batch])
        asked: list[Prompt] = [row["asked"] for row in batch]
        images = [
            driver.generate(
                conditioning,
                [prompt.id for prompt in asked],
                settings.seed + number,
                settings.schedule,
                seeds=[prompt.noise_seed(settings.seed, number) for prompt in asked],
            )
            for number in range(seeds)
        ]
        for row, made in zip(batch, torch.stack(images, 1).float().cpu(), strict=True):
            yield compare(row, made)
        progress(len(batch))


def compare(row: dict[str, Any], images: Float[Tensor, "seeds 3 height width"]) -> Verified:
    """The figures of one prompt's images."""
    cliques = Cliques(size=len(images))
    cliques.add(images)
    first, second = zip(*combinations(range(len(images)), 2), strict=True)
    own, note = _training_image(row["asked"], images.shape[-2:])
    near = None if own is None else own.expand_as(images)
    return Verified(
        rank=row["rank"],
        id=row["id"],
        prompt=row["prompt"],
        clique=cliques.largest / len(images),
        seed_ssim=float(ssim(images[list(first)], images[list(second)]).mean()),
        own_ssim=None if near is None else float(ssim(images, near).max()),
        own_tiled_l2=None if near is None else float(tiled_l2(images, near).min()),
        replicates=cliques.largest >= max(2, AGREEING * len(images)),
        images=images,
        own=own,
        note=note,
    )


def pictures_of(verified: Sequence[Verified]) -> dict[str, Image.Image]:
    """Every image, under its name in the audit's folder: pictures/RANK-SEED.png, and
    RANK-training.png where there is a training image."""
    made = {}
    for item in verified:
        shots = {str(seed): image for seed, image in enumerate(item.images)}
        for name, image in (shots | ({} if item.own is None else {"training": item.own})).items():
            pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            made[f"pictures/{item.rank:06d}-{name}.png"] = Image.fromarray(pixels)
    return made


def _training_image(prompt: Prompt, size: torch.Size) -> tuple[Tensor | None, str | None]:
    """The prompt's picture in [0, 1], cropped and scaled, or why there is none."""
    if prompt.image is None:
        return None, None
    try:
        return picture(prompt.image, (size[0], size[1])), None
    except InputError as error:
        return None, without_place(error, prompt.image)
