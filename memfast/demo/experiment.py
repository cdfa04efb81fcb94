"""The demo's experiment: remove what other prompts do not need, erase and teach again, test on
memorized prompts, attack.

Beside it stand the contrast of memorized and other prompts, located on half of the memorized ones,
and random neurons: as many each.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from memfast.attacks.embeddings import AttackSettings
from memfast.blocks.families import ffn_sites
from memfast.blocks.sizes import parameters
from memfast.choosing.locating import check_request, locate, step_masks
from memfast.demo import DATA
from memfast.measuring.cases import Cases, load_cases
from memfast.measuring.distances import ssim
from memfast.measuring.groups import halves
from memfast.measuring.rates import Interval, mean_interval
from memfast.measuring.replication import hits, replication
from memfast.measuring.similarity import Toolbox, toolbox
from memfast.observing.collecting import collect
from memfast.observing.sensitivity import collect_sensitivity
from memfast.pipelines.drivers.table import driver_of
from memfast.progress import Stage
from memfast.prompts import PromptSet, read_prompts
from memfast.removing.compact import compact
from memfast.repairing.proving import brought_back
from memfast.repairing.removal import harm_of, remove_to_damage
from memfast.repairing.run import repair
from memfast.repairing.settings import RepairSettings
from memfast.selection import Subspace, random_like
from memfast.statistics import NeuronStatistics

METRICS = ("l2_ratio", "ssim")  # an image that passes both thresholds is a copy
SEEDS = (1, 2)
SIZE = (32, 32)  # height and width in pixels
JUDGES = 24  # other prompts that rank neurons, and as many that judge how many may go
ATTACK = AttackSettings((50,), draws=4)
ERASE = RepairSettings(learning_rate=1e-3, batch=24, perturb=0.6, adversarial=0.0, scattered=0.0)


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


@dataclass(frozen=True)
class Experiment:
    """Everything that the table, the summary and the report show."""

    memorized: Cases
    singles: Cases
    located: list[int]
    held_out: list[int]
    subspace: Subspace
    by_step: Mapping[str, list[float]]
    arms: tuple[Arm, ...]  # original, compact, erased, contrast, random control
    attacks: Mapping[str, tuple[Interval, Interval]]  # arm: brought back, memorized and others
    damage: float  # denoising loss on held-out prompts over the original's
    pipeline: DiffusionPipeline  # with the compact model, erased if that was asked for
    figures: Mapping[str, int | float]


def run(
    pipeline: DiffusionPipeline,
    *,
    max_damage: float,
    memorized_prompts: int,
    singles: int,
    attacked: int,
    erase_steps: int,
    seed: int,
    stage: Stage,
) -> Experiment:
    """The whole path on the embedded model; `stage` opens a progress bar for each part of it.

    erase_steps: of teaching after the compact model's weights were perturbed; 0 leaves that out.
    """
    memorized = load_cases(read_prompts(DATA / "memorized.jsonl"), SIZE, memorized_prompts)
    others = load_cases(read_prompts(DATA / "singles.jsonl"), SIZE)
    located, held_out = halves(memorized.groups, seed)
    shown = others.part(range(singles))
    rest = others.part(range(singles, len(others)))
    ranking, judging = rest.part(range(JUDGES)), rest.part(range(JUDGES, 2 * JUDGES))
    contrasted = rest.part(range(2 * JUDGES, min(len(rest), 2 * JUDGES + len(located))))

    original = pipeline.unet
    schedule = driver_of(pipeline).schedule()
    files = {prompt.text: prompt for prompt in read_prompts(DATA / "singles.jsonl")}

    def of_files(cases: Cases) -> PromptSet:
        return PromptSet.of([files[text] for text in cases.texts])

    needed = collect_sensitivity(
        pipeline,
        of_files(ranking),
        seed=seed,
        progress=stage("what other prompts need", len(ranking)),
    )
    harm = harm_of(driver_of(pipeline), judging, seed)
    removal = remove_to_damage(driver_of(pipeline), needed, harm, max_damage)
    subspace = removal.subspace
    statistics = [
        collect(
            pipeline,
            PromptSet.of(cases.texts),
            steps=schedule.num_inference_steps,
            seed=seed,
            progress=stage(label, len(cases)),
        )
        for label, cases in (
            ("collecting memorized prompts", memorized.part(located)),
            ("collecting other prompts", contrasted),
        )
    ]
    contrast = locate(statistics[0], statistics[1], original, fraction=subspace.density)
    models = {"original": original, "compact": compact(original, subspace)}
    erased_damage = {}
    if erase_steps:
        smaller = copy(pipeline)
        smaller.unet = models["compact"]
        settings = replace(ERASE, steps=erase_steps, seed=seed)
        erased = repair(smaller, pipeline, of_files(rest), settings=settings, stage=stage)
        models["erased"] = erased.pipeline.unet
        erased_damage = {"damage_erased": erased.figures["damage_after"]}
    treated = list(models)
    models |= {
        "contrast": compact(original, contrast),
        "random control": compact(original, random_like(subspace, seed)),
    }

    judge, library = (
        toolbox(METRICS, device=driver_of(pipeline).device),
        torch.cat([memorized.training_images(), others.training_images()]),
    )
    arms: list[Arm] = []
    for name, model in models.items():
        pipeline.unet = model
        advance = stage(f"generating: {name}", (len(memorized) + len(shown)) * len(SEEDS))
        images = generate(pipeline, memorized, advance)
        usual = generate(pipeline, shown, advance)
        copied = copies(judge, images, memorized, library)
        arms.append(
            Arm(name, images, usual, copied, similarity(usual, arms[0].singles if arms else usual))
        )
    attacks = {}
    targets = memorized.part(held_out[:attacked]), shown.part(range(min(attacked, len(shown))))
    for name in treated if attacked else ():
        pipeline.unet = models[name]
        attacks[name] = tuple(
            brought_back(driver_of(pipeline), part, library, schedule, ATTACK, ("prompt",), stage)
            for part in targets
        )
    smaller = models[treated[-1]]
    seconds = time_per_image(pipeline, {"before": original, "after": smaller}, memorized)
    pipeline.unet = smaller
    return Experiment(
        memorized=memorized,
        singles=shown,
        located=located,
        held_out=held_out,
        subspace=subspace,
        by_step=share_by_step(needed, original, subspace.density),
        arms=tuple(arms),
        attacks=attacks,
        damage=removal.damage,
        pipeline=pipeline,
        figures={
            "parameters_before": parameters(original),
            "parameters_after": parameters(smaller),
            "neurons_before": sum(ffn_sites(original).values()),
            "neurons_after": sum(ffn_sites(smaller).values()),
            "seconds_per_image_before": seconds["before"],
            "seconds_per_image_after": seconds["after"],
            **erased_damage,
        },
    )


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


def share_by_step(
    needed: NeuronStatistics, model: nn.Module, fraction: float
) -> dict[str, list[float]]:
    """Of each site's neurons, the share that ranking at one level of noise alone would choose."""
    request = check_request(None, needed, model, rule="reference", fraction=fraction)
    by_step = list(step_masks(request))
    return {path: [float(masks[path].float().mean()) for masks in by_step] for path in by_step[0]}


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
