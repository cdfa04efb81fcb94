"""The denoising loss on captions with images: what a treatment costs, and what matches it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.measuring.cases import Cases
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.noise import generator

DRAWS = 8  # of noise and timestep a caption
CHUNK = 96  # rows a forward pass, at most


@torch.no_grad()
def denoising_loss(driver: Driver, cases: Cases, seed: int = 0) -> Float[Tensor, " captions"]:
    """Mean squared error of the model's prediction on each caption's first training image.

    Over 8 draws of noise and timestep (one from each eighth of the schedule) that depend on the
    caption's id and the seed alone, so that two models are compared on equal draws. Captions
    without an image are NaN.
    """
    losses = torch.full((len(cases),), torch.nan)
    shown = [index for index, case in enumerate(cases.cases) if len(case.images)]
    if not shown:
        return losses
    clean = driver.encode_images(torch.stack([cases.cases[i].images[0] for i in shown]))
    conditioning = driver.encode_all([cases.cases[i].text for i in shown])
    sources = [generator(f"{cases.cases[i].id}/loss", seed) for i in shown]
    noise = torch.cat([torch.randn(DRAWS, *clean.shape[1:], generator=s) for s in sources])
    share = torch.cat([torch.rand(DRAWS, generator=s) + torch.arange(DRAWS) for s in sources])
    times = driver.path.at_share(share / DRAWS).to(clean.device)
    rows = torch.arange(len(shown)).repeat_interleave(DRAWS)

    def losses_of(part: slice) -> Tensor:
        own = rows[part]
        return driver.loss(clean[own], conditioning[own], noise[part].to(clean), times[part])

    errors = torch.cat([*driver.portion(CHUNK).over(len(rows), losses_of)])
    losses[shown] = errors.view(-1, DRAWS).mean(1).float().cpu()
    return losses


def matched(
    damage: Callable[[float], float], target: float, *, steps: int = 7, highest: float = 1.0
) -> float:
    """The share in (0, highest) at which an increasing `damage` reaches `target`, by bisection.

    `highest` when even that does not reach it.
    """
    low, high = 0.0, highest
    for _ in range(steps):
        middle = (low + high) / 2
        if damage(middle) < target:
            low = middle
        else:
            high = middle
    return high
