"""Rows are spent where they are needed: one level for every prompt, the others where it is far."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float64
from memfast_kernels import Moments
from memfast_kernels.shapes import statistics_device
from torch import Tensor

from memfast.auditing.looking.combining import BESIDE
from memfast.auditing.looking.probes import Look, Scene, Unit, at_levels
from memfast.auditing.looking.scores import Baseline, parts
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Block, Worker, pooled, score_looks
from memfast.pipelines.identity import made_on
from memfast.prompts import Prompt

CHEAP = (
    2  # scores that every prompt has, the last: the part at the last level, and the energy there
)
Earns = Callable[[Float64[Tensor, "rows scores"]], Bool[Tensor, " rows"]]


def gated_names(settings: Settings) -> list[str]:
    """The scores that there are."""
    return [*parts(settings.path), BESIDE]


def last_level(scene: Scene, unit: Unit) -> list[Look]:
    """What every prompt gets."""
    return at_levels(scene, unit, scene.levels[-1:])


def other_levels(scene: Scene, unit: Unit) -> list[Look]:
    """What those get that earn it."""
    return at_levels(scene, unit, scene.levels[:-1])


def gated_block(
    worker: Worker,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    baseline: Baseline,
    earns: Earns,
) -> Block:
    """A block of `gated_names`: the last two of every prompt, and where they earn it the others,
    NaN elsewhere."""
    scores = torch.full((len(prompts), 1, len(names)), torch.nan, dtype=torch.float64)
    baseline = baseline.to(statistics_device(worker.driver.device))
    seen: list[dict[str, Moments]] = [{}]
    for rows, (looks,) in worker.looks(prompts, last_level):
        found = score_looks(looks, names[-CHEAP:], baseline)[: len(rows)]
        scores[rows, 0, -CHEAP:] = found.cpu()
        seen = [pooled([*seen, looks[0].moments or {}])]
    high: list[int] = earns(scores[:, 0, -CHEAP:]).nonzero().flatten().tolist()
    for rows, (looks,) in worker.looks([prompts[n] for n in high], other_levels):
        found = score_looks(looks, names[:-CHEAP], None)[: len(rows)]
        scores[[high[row] for row in rows], 0, :-CHEAP] = found.cpu()
    truncated = worker.driver.truncated([prompt.text for prompt in prompts])
    moments = {site: each.to("cpu") for site, each in seen[0].items()}
    return Block(scores, truncated, moments, made_on(worker.driver.model))
