"""The attack as an experiment: from every start, judged by the replication metrics, with a control.

Success is a memorization rate: the share of images that come back, by any seed and any start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.attacks.embeddings import STARTS, AttackSettings, Slopes, find_embeddings
from memfast.errors import InputError
from memfast.measuring.cases import Cases
from memfast.measuring.replication import Replication, broken, replication
from memfast.measuring.similarity import Toolbox
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.schedule import Schedule

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Attacked:
    """What an attack brought back: {(start, steps): scores of the images under attack}.

    found and pictures are those of the first start after the most steps. notes: captions whose
    images could not be used.
    """

    cases: Cases
    outcomes: Mapping[tuple[str, int], Replication]
    found: Conditioning
    pictures: Float[Tensor, "captions 3 height width"]
    notes: tuple[str, ...] = ()

    def together(self, steps: int) -> Replication:
        """The scores of all starts, as if each were one more seed."""
        of_starts = [found for (_, after), found in self.outcomes.items() if after == steps]
        names = of_starts[0].scores
        scores = {name: torch.cat([found.scores[name] for found in of_starts]) for name in names}
        return Replication(self.cases, scores)

    def rows(self) -> list[dict[str, Any]]:
        """One row a metric, start and number of steps, and one for all starts together."""
        starts = dict.fromkeys(start for start, _ in self.outcomes)
        found = dict(self.outcomes)
        if len(starts) > 1:
            found |= {("any", n): self.together(n) for n in {n: 0 for _, n in self.outcomes}}
        return [
            {"start": start, "steps": steps, "metric": metric, "rate": outcome.rate(metric)}
            for (start, steps), outcome in found.items()
            for metric in outcome.scores
        ]


def attack_cases(
    driver: Driver,
    cases: Cases,
    tools: Toolbox,
    others: Float[Tensor, "others 3 height width"],
    schedule: Schedule,
    *,
    starts: Sequence[str] = ("prompt",),
    settings: AttackSettings | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Advance | None = None,
    graphs: bool = True,
) -> Attacked:
    """Attack the first training image of each caption, then generate from what was found.

    seeds: image seeds a found embedding is judged on. `progress` is told images times steps.
    graphs: replay the search on CUDA.
    Raises InputError for an unknown start, and when no caption has a training image.
    """
    settings = settings or AttackSettings()
    if not starts or not set(starts) <= set(STARTS):
        raise InputError(f"starts {', '.join(starts)}: must be of {', '.join(STARTS)}")
    if not any(len(case.images) for case in cases.cases):
        raise InputError("attack: no caption has a training image to search for")
    cases, targets = cases.first_images()
    clean = driver.encode_images(targets)
    outcomes: dict[tuple[str, int], Replication] = {}
    kept: list[tuple[Conditioning, Tensor]] = []
    notes: list[str] = []
    for name in starts:
        start = STARTS[name](driver, cases.ids, cases.texts, settings.seed)
        slopes = Slopes(driver, graphs)
        found = find_embeddings(driver, clean, start, cases.ids, settings, progress, slopes)
        for steps, conditioning in found.items():
            images = [
                driver.generate(conditioning, cases.ids, seed, schedule).float().cpu()
                for seed in seeds
            ]
            notes += broken(images, cases.ids, f"from {name}, {steps} steps")
            outcomes[name, steps] = replication(tools, images, cases, others)
            if name == starts[0] and steps == settings.steps[-1]:
                kept.append((conditioning, images[0]))
    return Attacked(cases, outcomes, *kept[0], tuple(notes))
