"""The demo's models on trial: their images, which of them are copies, and what one takes."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from memfast.measuring.cases import Cases
from memfast.measuring.distances import ssim
from memfast.measuring.rates import Interval, mean_interval
from memfast.measuring.replication import hits, replication
from memfast.measuring.similarity import Toolbox
from memfast.pipelines.drivers.table import driver_of

SEEDS = (1, 2)


@dataclass(frozen=True)
class Arm:
    """One model on trial: its images [seeds, captions, 3, height, width] and its copies."""

    name: str
    memorized: Float[Tensor, "seeds captions 3 height width"]
    singles: Float[Tensor, "seeds others 3 height width"]
    copies: Float[Tensor, "seeds captions"]  # 1 where an image is a copy
    singles_ssim: Interval  # to the original model's images at equal seeds

    def rate(self, indices: list[int], groups: list[int]) -> Interval:
        """The share of images that are copies, over the captions at `indices`."""
        return mean_interval(self.copies[:, indices], [groups[i] for i in indices], rate=True)


def generate(
    pipeline: DiffusionPipeline, cases: Cases, advance: Callable[[int], None]
) -> Float[Tensor, "seeds captions 3 height width"]:
    """Images of every caption at every seed of SEEDS."""
    driver = driver_of(pipeline)
    conditioning = driver.encode_all(cases.texts)
    seeds = []
    for seed in SEEDS:
        seeds.append(driver.generate(conditioning, cases.ids, seed).float().cpu())
        advance(len(cases))
    return torch.stack(seeds)


def copies(
    judge: Toolbox, images: Tensor, cases: Cases, library: Tensor
) -> Float[Tensor, "seeds captions"]:
    """1 where an image passes the threshold of every metric."""
    scores = replication(judge, images, cases, library).scores
    return torch.stack([hits(name, of_metric) for name, of_metric in scores.items()]).amin(0)


def similarity(images: Tensor, originals: Tensor) -> Interval:
    """Mean SSIM to other images of the same captions and seeds."""
    values = ssim(images.flatten(0, 1), originals.flatten(0, 1))
    return mean_interval(values.view(images.shape[:2]))


def time_per_image(
    pipeline: DiffusionPipeline,
    models: dict[str, nn.Module],
    cases: Cases,
    repeats: int = 5,
) -> dict[str, float]:
    """Median seconds an image in batches of 8, the models taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            pipeline.unet = model
            driver = driver_of(pipeline)
            few = cases.part(range(min(8, len(cases))))
            conditioning = driver.encode(few.texts)
            start = perf_counter()
            driver.generate(conditioning, few.ids, 0)
            taken[name].append((perf_counter() - start) / len(few))
    return {name: median(times) for name, times in taken.items()}
