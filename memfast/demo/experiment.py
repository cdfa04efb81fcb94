"""The demo's experiment: locate on one half of the memorized prompts, compact, test on the other."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

import memfast
from memfast.demo import DATA, SETTINGS
from memfast.evaluation.distances import ssim
from memfast.evaluation.groups import duplicate_groups, halves
from memfast.evaluation.rates import Interval, mean_interval
from memfast.evaluation.similarity import Comparison, toolbox
from memfast.models.compact import compact
from memfast.models.denoising import Denoiser
from memfast.models.locating import check_request, step_masks
from memfast.prompts import Prompt, PromptSet, read_prompts
from memfast.selection import Subspace, random_like
from memfast.statistics import NeuronStatistics

METRICS = ("l2_ratio", "ssim")  # an image that passes both thresholds is a copy
SEEDS = (1, 2)
Stage = Callable[[str, int], Callable[[int], None]]  # (label, total) -> advance(units)


@dataclass(frozen=True)
class Arm:
    """One model on trial: its images [prompts, seeds, 3, h, w] and which of them are copies."""

    name: str
    memorized: Tensor
    singles: Tensor
    copies: Tensor  # float [prompts]: share of seeds that copy

    def rate(self, indices: list[int], groups: list[int]) -> Interval:
        """The memorization rate of the prompts at `indices`."""
        return mean_interval(self.copies[indices], [groups[i] for i in indices], rate=True)


@dataclass(frozen=True)
class Experiment:
    """Everything that the table, the summary and the report show."""

    memorized: list[Prompt]
    singles: list[Prompt]
    training: Tensor
    groups: list[int]
    located: list[int]
    held_out: list[int]
    subspace: Subspace
    by_step: dict[str, list[float]]
    arms: tuple[Arm, ...]  # original, compact, random control
    singles_ssim: dict[str, Interval]
    pipeline: DiffusionPipeline
    figures: dict[str, float]


def run(fraction: float, singles: int, seed: int, stage: Stage) -> Experiment:
    """The whole path on the embedded model; `stage` opens a progress bar for each part of it."""
    pipeline = memfast.load_pipeline("demo")
    memorized = list(read_prompts(DATA / "memorized.jsonl"))
    others = list(read_prompts(DATA / "singles.jsonl"))
    training = images_of(memorized)
    groups = duplicate_groups([p.text for p in memorized], [image[None] for image in training])
    located, held_out = halves(groups, seed)
    shown, reference_prompts = others[:singles], others[singles : singles + 2 * len(located)]

    steps = SETTINGS["num_inference_steps"]
    statistics = [
        memfast.collect(
            pipeline,
            PromptSet.of(prompts),
            steps=steps,
            seed=seed,
            **SETTINGS,
            progress=stage(label, len(prompts)),
        )
        for label, prompts in (
            ("collecting memorized prompts", [memorized[i] for i in located]),
            ("collecting reference prompts", reference_prompts),
        )
    ]
    original = pipeline.unet
    subspace = memfast.locate(*statistics, original, fraction=fraction)
    smaller = compact(original, subspace)
    control = compact(original, random_like(subspace, seed))

    judge = toolbox(METRICS)
    library = torch.cat([training, images_of(others)])
    arms = []
    for name, model in (("original", original), ("compact", smaller), ("random control", control)):
        pipeline.unet = model
        advance = stage(f"generating: {name}", (len(memorized) + len(shown)) * len(SEEDS))
        images = generate(pipeline, memorized, advance)
        copies = torch.ones(images.shape[:2])
        for index in range(len(SEEDS)):
            scores = judge.score(Comparison(images[:, index], training, library))
            for metric in judge.metrics:
                copies[:, index] *= metric.copies(scores[metric.name])
        arms.append(Arm(name, images, generate(pipeline, shown, advance), copies.mean(1)))
    seconds = time_per_image(pipeline, {"before": original, "after": smaller}, memorized)
    pipeline.unet = smaller
    return Experiment(
        memorized=memorized,
        singles=shown,
        training=training,
        groups=groups,
        located=located,
        held_out=held_out,
        subspace=subspace,
        by_step=share_by_step(*statistics, original, fraction),
        arms=tuple(arms),
        singles_ssim={a.name: similarity(a.singles, arms[0].singles) for a in arms[1:]},
        pipeline=pipeline,
        figures={
            "parameters_before": count(original),
            "parameters_after": count(smaller),
            "neurons_before": sum(memfast.ffn_sites(original).values()),
            "neurons_after": sum(memfast.ffn_sites(smaller).values()),
            "seconds_per_image_before": seconds["before"],
            "seconds_per_image_after": seconds["after"],
        },
    )


def images_of(prompts: list[Prompt]) -> Float[Tensor, "prompts 3 height width"]:
    """The training images, in [0, 1]."""
    pictures = [Image.open(str(p.image)).convert("RGB") for p in prompts]
    pixels = [torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures]
    shaped = [x.view(p.height, p.width, 3) for x, p in zip(pixels, pictures, strict=True)]
    return torch.stack(shaped).permute(0, 3, 1, 2).float() / 255


def generate(
    pipeline: DiffusionPipeline, prompts: list[Prompt], advance: Callable[[int], None]
) -> Float[Tensor, "prompts seeds 3 height width"]:
    """Images of every prompt at every seed of SEEDS."""
    denoiser = Denoiser(pipeline)
    embeddings, ids = denoiser.encode([p.text for p in prompts]), [p.id for p in prompts]
    seeds = []
    for seed in SEEDS:
        seeds.append(denoiser.generate(embeddings, ids, seed, **SETTINGS))
        advance(len(prompts))
    return torch.stack(seeds, dim=1)


def similarity(images: Tensor, originals: Tensor) -> Interval:
    """Mean SSIM to the original model's images at equal seeds."""
    values = ssim(images.flatten(0, 1), originals.flatten(0, 1))
    return mean_interval(values.view(images.shape[:2]).T)


def share_by_step(
    memorized: NeuronStatistics, reference: NeuronStatistics, model: nn.Module, fraction: float
) -> dict[str, list[float]]:
    """Of each site's neurons, the share that ranking at one step alone would choose."""
    request = check_request(memorized, reference, model, fraction=fraction)
    by_step = list(step_masks(request))
    return {path: [float(masks[path].float().mean()) for masks in by_step] for path in by_step[0]}


def time_per_image(
    pipeline: DiffusionPipeline,
    models: dict[str, nn.Module],
    prompts: list[Prompt],
    repeats: int = 5,
) -> dict[str, float]:
    """Median seconds an image in batches of 8, the models taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            pipeline.unet = model
            denoiser = Denoiser(pipeline)
            embeddings = denoiser.encode([p.text for p in prompts[:8]])
            start = perf_counter()
            denoiser.generate(embeddings, [p.id for p in prompts[:8]], 0, **SETTINGS)
            taken[name].append((perf_counter() - start) / 8)
    return {name: median(times) for name, times in taken.items()}


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())
