"""Rows are spent where they are needed: one look at every prompt, the others where it is high."""

from collections.abc import Sequence

import torch
from memfast_kernels import Moments
from memfast_kernels.shapes import statistics_device

from memfast.auditing.looking.combining import BESIDE
from memfast.auditing.looking.probes import Look, Scene, Unit, levels
from memfast.auditing.looking.scores import Baseline, parts
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Block, Worker, pooled, score_looks
from memfast.pipelines.identity import made_on
from memfast.prompts import Prompt

CHEAP = "shared"  # what the part of the one look is called


def gated_names(settings: Settings) -> list[str]:
    """The scores that there are; every prompt has the first."""
    return [*parts([CHEAP, *settings.path]), BESIDE]


def cheap(scene: Scene, unit: Unit) -> list[Look]:
    """The one look: where all prompts share the latents, at the last level of the path."""
    return [scene.at(scene.shared[-1], unit)]


def every(scene: Scene, unit: Unit) -> list[Look]:
    """What references get: all looks."""
    return [*cheap(scene, unit), *levels(scene, unit)]


def gated_block(
    worker: Worker, prompts: Sequence[Prompt], names: Sequence[str], baseline: Baseline, gate: float
) -> Block:
    """A block of `gated_names`: the first of every prompt, and where it exceeds `gate` the others
    too, NaN elsewhere."""
    scores = torch.full((len(prompts), 1, len(names)), torch.nan, dtype=torch.float64)
    baseline = baseline.to(statistics_device(worker.driver.device))
    seen: list[dict[str, Moments]] = [{}]
    for rows, (looks,) in worker.looks(prompts, cheap):
        scores[rows, 0, :1] = score_looks(looks, names[:1], None)[: len(rows)].cpu()
        seen = [pooled([*seen, looks[0].moments or {}])]
    high = (scores[:, 0, 0] > gate).nonzero().flatten()
    for rows, (looks,) in worker.looks([prompts[n] for n in high], levels):
        found = score_looks(looks, names[1:], baseline)[: len(rows)]
        scores[high[rows], 0, 1:] = found.cpu()
    truncated = worker.driver.truncated([prompt.text for prompt in prompts])
    moments = {site: each.to("cpu") for site, each in seen[0].items()}
    return Block(scores, truncated, moments, made_on(worker.driver.model))
