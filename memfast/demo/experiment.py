"""The demo's experiment: remove what other prompts do not need, erase and teach again, test on
memorized prompts, attack.

Beside it stand the contrast of memorized and other prompts, located on half of the memorized ones,
and random neurons: as many each; and random neurons that do as much damage.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from memfast.attacks.embeddings import AttackSettings
from memfast.blocks.families import ffn_sites
from memfast.blocks.sizes import parameters
from memfast.choosing.locating import check_request, locate, step_masks
from memfast.demo import DATA
from memfast.demo.arms import SEEDS, Arm, copies, generate, similarity, time_per_image
from memfast.demo.kept import Kept
from memfast.measuring.cases import Cases, load_cases
from memfast.measuring.groups import halves
from memfast.measuring.rates import Interval
from memfast.measuring.similarity import toolbox
from memfast.observing.collecting import collect
from memfast.observing.sensitivity import collect_sensitivity
from memfast.pipelines.drivers.table import driver_of
from memfast.progress import Stage
from memfast.prompts import PromptSet, read_prompts
from memfast.removing.compact import compact
from memfast.repairing.proving import METRICS, brought_back, rate_of
from memfast.repairing.removal import harm_of, largest, remove_to_damage
from memfast.repairing.run import repair
from memfast.repairing.settings import RepairSettings
from memfast.selection import Subspace, random_like
from memfast.statistics import NeuronStatistics

SIZE = (32, 32)  # height and width in pixels
JUDGES = 24  # other prompts that rank neurons, and as many that judge how many may go
ATTACK = AttackSettings((50,), draws=4)
ALIKE, CHANCE = "random control", "random, equal damage"
ERASE = RepairSettings(learning_rate=1e-3, batch=24, perturb=0.6, adversarial=0.0, scattered=0.0)


@dataclass(frozen=True)
class Experiment:
    """Everything that the table, the summary and the report show."""

    memorized: Cases
    singles: Cases
    located: list[int]
    held_out: list[int]
    subspace: Subspace
    by_step: Mapping[str, list[float]]
    arms: tuple[Arm, ...]  # original, compact, erased, contrast, two random controls
    attacks: Mapping[str, tuple[Interval, Interval]]  # arm: brought back, memorized and others
    damage: float  # denoising loss on held-out prompts over the original's
    pipeline: DiffusionPipeline  # with the compact model, erased if that was asked for
    figures: Mapping[str, int | float]


@dataclass(frozen=True)
class Plan:
    """What is asked for. erase_steps: of teaching after the compact model's weights were perturbed;
    0 leaves that out."""

    max_damage: float
    memorized: int
    singles: int
    attacked: int
    erase_steps: int
    seed: int

    @property
    def treated(self) -> int:
        """Models that are attacked."""
        return 3 if self.erase_steps else 2

    def rows(self, steps: int) -> int:
        """Rows of the denoiser's forward passes, a gradient counted as two more."""
        images = (self.treated + 3) * (self.memorized + self.singles) * len(SEEDS) * steps * 2
        attacks = 3 * 2 * self.treated * self.attacked * ATTACK.steps[-1] * ATTACK.draws
        taught = 4 * self.erase_steps * ERASE.batch
        return images + attacks + taught + 2 * self.memorized * steps


def seconds_a_row(pipeline: DiffusionPipeline, rows: int = 32) -> float:
    """What a row of the denoiser takes here, of the second of two calls."""
    driver = driver_of(pipeline)
    latents = driver.initial_noise([str(row) for row in range(rows)], 0)
    told = driver.no_prompt.expand(rows)
    for _ in range(2):
        start = perf_counter()
        with torch.no_grad():
            driver.predict(latents, driver.path.time_of(0.5), told).cpu()
    return (perf_counter() - start) / rows


def run(pipeline: DiffusionPipeline, plan: Plan, kept: Kept, stage: Stage) -> Experiment:
    """The whole path on the embedded model; `stage` opens a progress bar for each part of it, and
    what `kept` has of an earlier run is taken from there."""
    seed = plan.seed
    memorized = load_cases(read_prompts(DATA / "memorized.jsonl"), SIZE, plan.memorized)
    others = load_cases(read_prompts(DATA / "singles.jsonl"), SIZE)
    located, held_out = halves(memorized.groups, seed)
    shown = others.part(range(plan.singles))
    rest = others.part(range(plan.singles, len(others)))
    ranking, judging = rest.part(range(JUDGES)), rest.part(range(JUDGES, 2 * JUDGES))
    contrasted = rest.part(range(2 * JUDGES, min(len(rest), 2 * JUDGES + len(located))))

    original: Any = pipeline
    original = original.unet
    driver = driver_of(pipeline)
    files = {prompt.text: prompt for prompt in read_prompts(DATA / "singles.jsonl")}

    def of_files(cases: Cases) -> PromptSet:
        return PromptSet.of([files[text] for text in cases.texts])

    def needs() -> NeuronStatistics:
        advance = stage("what other prompts need", len(ranking))
        return collect_sensitivity(pipeline, of_files(ranking), seed=seed, progress=advance)

    needed = kept.object("needed", NeuronStatistics, needs)
    harm = harm_of(driver, judging, seed)
    removal = remove_to_damage(driver, needed, harm, plan.max_damage)
    subspace = removal.subspace

    def at_random(share: float) -> Subspace:
        asked = locate(None, needed, original, rule="reference", fraction=share)
        return random_like(asked, seed)

    by_chance = largest(driver, at_random, harm, removal.damage)

    def contrast() -> Subspace:
        statistics = [
            collect(
                pipeline,
                PromptSet.of(cases.texts),
                steps=driver.schedule().num_inference_steps,
                seed=seed,
                progress=stage(f"collecting {label} prompts", len(cases)),
            )
            for label, cases in (("memorized", memorized.part(located)), ("other", contrasted))
        ]
        return locate(statistics[0], statistics[1], original, fraction=subspace.density)

    models = {"original": original, "compact": compact(original, subspace)}
    erased_damage = {}
    if plan.erase_steps:
        smaller = copy(pipeline)
        smaller.unet = models["compact"]
        settings = replace(ERASE, steps=plan.erase_steps, seed=seed)
        erased = repair(
            smaller,
            pipeline,
            of_files(rest),
            settings=settings,
            checkpoint=kept.path("erasing"),
            progress=stage,
        )
        models["erased"] = erased.pipeline.unet
        erased_damage = {"damage_erased": erased.figures["damage_after"]}
    treated = list(models)
    models |= {
        "contrast": compact(original, kept.object("contrast", Subspace, contrast)),
        ALIKE: compact(original, random_like(subspace, seed)),
        CHANCE: compact(original, by_chance.subspace),
    }

    judge, library = (
        toolbox(METRICS, device=driver.device),
        torch.cat([memorized.training_images(), others.training_images()]),
    )
    arms: list[Arm] = []
    for name, model in models.items():
        pipeline.unet = model

        def paint(name: str = name) -> dict[str, Tensor]:
            advance = stage(f"generating: {name}", (len(memorized) + len(shown)) * len(SEEDS))
            return {
                "memorized": generate(pipeline, memorized, advance),
                "singles": generate(pipeline, shown, advance),
            }

        made = kept.tensors(f"images of {name}", paint)
        images, usual = made["memorized"], made["singles"]
        copied = copies(judge, images, memorized, library)
        arms.append(
            Arm(name, images, usual, copied, similarity(usual, arms[0].singles if arms else usual))
        )
    attacks = {}
    targets = {
        "memorized": memorized.part(held_out[: plan.attacked]),
        "control": shown.part(range(min(plan.attacked, len(shown)))),
    }
    for name in treated if plan.attacked else ():
        pipeline.unet = models[name]
        attacks[name] = tuple(
            rate_of(
                kept.tensors(
                    f"attack on {name}, {kind}",
                    lambda cases=cases: attacked(pipeline, cases, library, stage),
                )["back"],
                cases,
            )
            for kind, cases in targets.items()
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
            "removed_at_random_for_equal_damage": by_chance.subspace.density,
            **erased_damage,
        },
    )


def attacked(
    pipeline: DiffusionPipeline, cases: Cases, library: Tensor, stage: Stage
) -> dict[str, Tensor]:
    """1 for each image that came back, [captions]."""
    driver = driver_of(pipeline)
    back = brought_back(driver, cases, library, driver.schedule(), ATTACK, ("prompt",), stage)
    return {"back": back}


def share_by_step(
    needed: NeuronStatistics, model: nn.Module, fraction: float
) -> dict[str, list[float]]:
    """Of each site's neurons, the share that ranking at one level of noise alone would choose."""
    request = check_request(None, needed, model, rule="reference", fraction=fraction)
    by_step = list(step_masks(request))
    return {path: [float(masks[path].float().mean()) for masks in by_step] for path in by_step[0]}
