"""The attack as an experiment: from every start, judged by the replication metrics, with a control.

Success is a memorization rate: the share of images that come back, by any seed and any start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.errors import InputError
from memfast.evaluation.adversarial import STARTS, AttackSettings, find_embeddings
from memfast.evaluation.cases import Cases
from memfast.evaluation.rates import Interval, mean_interval
from memfast.evaluation.replication import Replication, replication
from memfast.evaluation.similarity import METRICS, Toolbox
from memfast.models.denoising import Denoiser

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Attacked:
    """What an attack brought back: {(start, steps): scores of the images under attack}."""

    cases: Cases
    outcomes: Mapping[tuple[str, int], Replication]
    pictures: Float[Tensor, "captions 3 height width"]

    def success(self, metric: str, steps: int) -> Float[Tensor, " captions"]:
        """1 where an image came back from any start, NaN: unknown."""
        of_starts = [
            outcome.scores[metric]
            for (_, after), outcome in self.outcomes.items()
            if after == steps
        ]
        entry = METRICS[metric]
        nearest = entry.closest(torch.cat(of_starts), 0)
        return entry.copies(nearest).float().masked_fill(nearest.isnan(), float("nan"))

    def rate(self, metric: str, steps: int) -> Interval:
        """The rate of success by duplicate group."""
        return mean_interval(self.success(metric, steps), self.cases.groups, rate=True)

    def rows(self) -> list[dict[str, object]]:
        """One row a metric, start and number of steps, and one for all starts together."""
        rows: list[dict[str, object]] = []
        for (start, steps), outcome in self.outcomes.items():
            for metric in outcome.scores:
                rate = outcome.rate(metric)
                rows.append({"start": start, "steps": steps, "metric": metric, "rate": rate})
        if len({start for start, _ in self.outcomes}) > 1:
            for steps in dict.fromkeys(after for _, after in self.outcomes):
                for metric in next(iter(self.outcomes.values())).scores:
                    rate = self.rate(metric, steps)
                    rows.append({"start": "any", "steps": steps, "metric": metric, "rate": rate})
        return rows


def attack_cases(
    denoiser: Denoiser,
    cases: Cases,
    tools: Toolbox,
    others: Float[Tensor, "others 3 height width"],
    schedule: Mapping[str, Any],
    *,
    starts: Sequence[str] = ("prompt",),
    settings: AttackSettings | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Advance | None = None,
) -> Attacked:
    """Attack the first training image of each caption, then generate from what was found.

    seeds: image seeds a found embedding is judged on. `progress` is told images times steps.
    Raises InputError for an unknown start, and when no caption has a training image.
    """
    settings = settings or AttackSettings()
    for start in starts:
        if start not in STARTS:
            raise InputError(f"starts: {start!r} is none of {', '.join(STARTS)}")
    if not any(len(case.images) for case in cases.cases):
        raise InputError("attack: no caption has a training image to search for")
    cases, targets = cases.first_images()
    clean = denoiser.encode_images(targets)
    outcomes: dict[tuple[str, int], Replication] = {}
    pictures = targets
    for name in starts:
        start = STARTS[name](denoiser, cases.ids, cases.texts, settings.seed)
        found = find_embeddings(denoiser, clean, start, cases.ids, settings, progress)
        for steps, embeddings in found.items():
            images = [denoiser.generate(embeddings, cases.ids, s, **schedule) for s in seeds]
            outcomes[name, steps] = replication(tools, images, cases, others)
            pictures = images[0]
    return Attacked(cases, outcomes, pictures)
