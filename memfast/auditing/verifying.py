"""The second look: pictures of the most suspicious prompts. Do seeds agree on one that other
captions do not make? Is it the training image? Two verdicts: neither implies the other."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from memfast.measuring.distances import l2_ratio, ssim, tiled_l2
from memfast.measuring.extraction import Cliques
from memfast.measuring.index import ImageIndex
from memfast.measuring.similarity import METRICS
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.pictures import picture, to_pil
from memfast.prompts import Prompt
from memfast.prompts.groups import near_duplicates

TEXTS_A_BATCH = 16
AGREEING = 0.5  # share of the seeds that must make one picture
OTHERS = 32  # captions whose pictures agreement is compared with, from the lower half, and as
# many of those looked at
FEWEST_OTHERS = 4
NEARER = 0.5  # of what other captions' pictures are apart: Carlini's alpha
SSIM = METRICS["ssim"].threshold

Seeds = Float[Tensor, "seeds 3 height width"]
Others = Float[Tensor, "others 3 height width"]


@dataclass(frozen=True)
class Verified:
    """What several seeds made of one prompt, and two verdicts on it.

    clique: of the images, the share in the largest group that are all near each other (tiled L2
    below 0.15, arXiv 2301.13188). spread: their mean distance over that to the nearest tenth of
    other captions' images. seed_ssim: mean SSIM of pairs of seeds. own_ssim, own_tiled_l2,
    own_ratio: of the nearest image to the training image, where one is given; the ratio is to the
    distance of other captions' images (Carlini et al.). ssims, copies: of each image, its SSIM to
    the training image and whether it is a copy; empty where there is none.
    seeds_agree: half of the seeds or more, and at least two, make one picture that other captions
    do not make (spread below 0.5); None where there are fewer than 4 of these. matches_training:
    an image is a copy: SSIM above 0.6 and a ratio below 0.5; None without a training image.
    copied: the file of the training image, of all in an index, that one of the images is a copy of;
    that matches too. images: [seeds, 3, height, width] in [0, 1]. note: why its own training image
    could not be used.
    """

    rank: int
    id: str
    prompt: str
    clique: float
    spread: float | None
    seed_ssim: float
    own_ssim: float | None
    own_tiled_l2: float | None
    own_ratio: float | None
    ssims: list[float]
    copies: list[bool]
    seeds_agree: bool | None
    matches_training: bool | None
    images: Float[Tensor, "seeds 3 height width"] = field(repr=False)
    own: Float[Tensor, "3 height width"] | None = field(repr=False)
    note: str | None = None
    copied: str | None = None

    def figures(self) -> dict[str, Any]:
        """All but the pictures."""
        return {k: v for k, v in asdict(self).items() if k not in ("images", "own")}


@torch.no_grad()
def verify(
    pipeline: DiffusionPipeline,
    rows: Sequence[dict[str, Any]],
    others: Sequence[dict[str, Any]],
    seeds: int,
    settings: Settings,
    progress: Callable[[int], None],
    index: ImageIndex | None = None,
) -> Iterator[Verified]:
    """Generate `seeds` images for each row (rank, id, prompt, asked) and compare them, with one
    another, with an image of each of the `others`, and with all training images of an index.

    An image depends on its prompt's id, the seed (the prompt's own, where it has one) and the
    settings' schedule and guidance alone.
    """
    driver = driver_of(pipeline, **settings.request)
    made = _batches(driver, others, 1, settings, progress)
    usual = [(other, images[0]) for other, images in made]
    twins = _twins([*rows, *others])
    for row, images in _batches(driver, rows, seeds, settings, progress):
        apart = [image for other, image in usual if other["prompt"] not in twins[row["prompt"]]]
        found = compare(row, images, torch.stack(apart) if apart else images[:0])
        yield found if index is None else _in_index(found, index)


def _twins(rows: Sequence[dict[str, Any]]) -> dict[str, set[str]]:
    """Of each text, those that may well share its picture: near-duplicates, and captions of the
    same training image."""
    texts = [row["prompt"] for row in rows]
    of_image: dict[str | None, set[str]] = {}
    for row in rows:
        of_image.setdefault(row["asked"].image, set()).add(row["prompt"])
    found = {row["prompt"]: {row["prompt"]} for row in rows}
    for row in rows:
        found[row["prompt"]] |= of_image[row["asked"].image] if row["asked"].image else set()
    for first, second in near_duplicates(texts):
        found[texts[first]].add(texts[second])
        found[texts[second]].add(texts[first])
    return found


def _batches(
    driver: Driver,
    rows: Sequence[dict[str, Any]],
    seeds: int,
    settings: Settings,
    progress: Callable[[int], None],
) -> Iterator[tuple[dict[str, Any], Float[Tensor, "seeds 3 height width"]]]:
    """The rows with their images."""
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
        yield from zip(batch, torch.stack(images, 1).float().cpu(), strict=True)
        progress(len(batch) * seeds)


def compare(row: dict[str, Any], images: Seeds, others: Others) -> Verified:
    """The figures and verdicts of one prompt's images; others: images of other captions."""
    cliques = Cliques(size=len(images))
    cliques.add(images)
    first, second = zip(*combinations(range(len(images)), 2), strict=True)
    own, note = _training_image(row["asked"], images.shape[-2:])
    near = None if own is None else own.expand_as(images)
    known = len(others) >= FEWEST_OTHERS
    spread = _spread(cliques.kept, others) if known else None
    alike = cliques.largest >= max(2, AGREEING * len(images))
    matched = images.new_zeros(0) if near is None else ssim(images, near)
    ratio = l2_ratio(images, near, others) if near is not None and known else None
    copies = (matched > SSIM) & (True if ratio is None else ratio < NEARER)
    return Verified(
        rank=row["rank"],
        id=row["id"],
        prompt=row["prompt"],
        clique=cliques.largest / len(images),
        spread=spread,
        seed_ssim=float(ssim(images[list(first)], images[list(second)]).mean()),
        own_ssim=None if near is None else float(matched.max()),
        own_tiled_l2=None if near is None else float(tiled_l2(images, near).min()),
        own_ratio=None if ratio is None else float(ratio.min()),
        seeds_agree=None if spread is None else alike and spread < NEARER,
        ssims=matched.tolist(),
        copies=copies.tolist(),
        matches_training=None if near is None else bool(copies.any()),
        images=images,
        own=own,
        note=note,
    )


def _in_index(found: Verified, index: ImageIndex) -> Verified:
    """The same, told whether an image copies any training image."""
    copied = next((file for file in index.copies(found.images) if file), None)
    return replace(found, copied=copied, matches_training=bool(found.matches_training or copied))


def _spread(clique: Seeds, others: Others) -> float:
    """How far a clique's images are apart, over how far other captions' nearest tenth is."""
    if len(clique) < 2:
        return math.inf
    pairs = [tiled_l2(one[None], two[None]) for one, two in combinations(clique, 2)]
    away = torch.stack([tiled_l2(image.expand_as(others), others) for image in clique])
    return float(torch.cat(pairs).mean() / away.quantile(0.1).clamp(min=1e-12))


def pictures_of(verified: Sequence[Verified]) -> dict[str, Image.Image]:
    """Every image, under its name in the audit's folder: pictures/RANK-SEED.png, and
    RANK-training.png where there is a training image."""
    made = {}
    for item in verified:
        shots = {str(seed): image for seed, image in enumerate(item.images)}
        for name, image in (shots | ({} if item.own is None else {"training": item.own})).items():
            made[f"pictures/{item.rank:06d}-{name}.png"] = to_pil(image)
    return made


def _training_image(prompt: Prompt, size: torch.Size) -> tuple[Tensor | None, str | None]:
    """The prompt's picture in [0, 1], cropped and scaled, or why there is none."""
    if prompt.image is None:
        return None, None
    try:
        return picture(prompt.image, (size[0], size[1])), None
    except InputError as error:
        return None, without_place(error, prompt.image)
