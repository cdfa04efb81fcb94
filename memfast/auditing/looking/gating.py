"""Rows are spent where they are needed: one look at every prompt, the others where it is high."""

from collections.abc import Sequence

import torch
from memfast_kernels import Moments

from memfast.auditing.looking.probes import Look, Prediction, apart, at_last_level
from memfast.auditing.looking.worker import Block, Worker, pooled, score_looks
from memfast.pipelines.identity import made_on
from memfast.prompts import Prompt


def gated_block(
    worker: Worker, prompts: Sequence[Prompt], names: Sequence[str], gate: float
) -> Block:
    """A block of the parts of a score: the last of every prompt, and where it exceeds `gate` the
    others too, NaN elsewhere."""
    scores = torch.full((len(prompts), 1, len(names)), torch.nan, dtype=torch.float64)
    seen: list[dict[str, Moments]] = [{}]
    starts: dict[int, Prediction] = {}
    for rows, (looks,) in worker.looks(prompts, at_last_level):
        last = score_looks(looks, names[-1:], None)[: len(rows), 0].cpu()
        scores[rows, 0, -1] = last
        for row in (last > gate).nonzero().flatten().tolist():
            starts[rows[row]] = looks[0].prediction[row]
        seen = [pooled([*seen, looks[0].moments or {}])]
    places, size = sorted(starts), worker.unit
    for part in (places[n : n + size] for n in range(0, len(places), size)):
        looks = other_levels(worker, [prompts[n] for n in part], [starts[n] for n in part])
        scores[part, 0, :-1] = score_looks(looks, names[:-1], None)[: len(part)].cpu()
    truncated = worker.driver.truncated([prompt.text for prompt in prompts])
    moments = {site: each.to("cpu") for site, each in seen[0].items()}
    return Block(scores, truncated, moments, made_on(worker.driver.model))


@torch.no_grad()
def other_levels(worker: Worker, prompts: list[Prompt], starts: list[Prediction]) -> list[Look]:
    """The looks of one unit at all levels but the last, after a first one that no part is of."""
    unit = worker.texts([prompt.text for prompt in prompts])
    start = Prediction.stack(starts + starts[-1:] * (worker.unit - len(starts)))
    scene = worker.scenes[0]
    looks = apart(scene, start, unit.conditioning, scene.levels[:-1])
    return [looks[0], *looks]
