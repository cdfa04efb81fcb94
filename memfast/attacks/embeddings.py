"""Adversarial embeddings: does the model still hold an image that its prompt no longer brings?

The attacker knows the training image and the weights, and searches a text embedding that denoises
towards the image. Source: Dori (Adam at 0.1, 50 steps, 8 draws of noise and timestep a step, from
three initialisations). Non-memorized images give way as well after more than 500 steps, so an
attack's rate means nothing without the same attack on images that the model does not memorize.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from operator import add
from typing import Any

import torch
from torch import Tensor

from memfast.blocks.sizes import parameters
from memfast.errors import InputError
from memfast.memory.replaying import Replayed
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.fitting import SMALL
from memfast.pipelines.noise import generator
from memfast.precision import Gradients, wide


@dataclass(frozen=True, slots=True)
class AttackSettings:
    """steps: after how many the embedding is judged, ascending. draws: of noise and timestep a
    step. seed: of those draws. batch: images attacked together, which changes no result beyond
    rounding."""

    steps: tuple[int, ...] = (50,)
    learning_rate: float = 0.1
    draws: int = 8
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
            raise InputError(f"steps: ascending numbers from 1, got {self.steps}")
        if not 0 < self.learning_rate < inf:
            raise InputError(f"learning_rate {self.learning_rate}: must be above 0")


def from_prompt(driver: Driver, ids: Sequence[str], texts: Sequence[str], _: int) -> Conditioning:
    """The prompt's own conditioning."""
    return driver.encode_all(texts)


def from_noise(driver: Driver, ids: Sequence[str], texts: Sequence[str], seed: int) -> Conditioning:
    """N(0, I) in every leaf that may be searched, an image's own by its id and the seed; of its
    caption it keeps no more than the length."""
    sources = [generator(f"{i}/start", seed) for i in ids]

    def drawn(leaf: Tensor) -> Tensor:
        shape = leaf.shape[1:]
        return torch.stack([torch.randn(shape, generator=source) for source in sources]).to(leaf)

    return driver.encode_all(texts).searched_by(drawn)


def from_another(
    driver: Driver, ids: Sequence[str], texts: Sequence[str], seed: int
) -> Conditioning:
    """Another prompt's conditioning: the caption half the list further on."""
    shift = max(1, len(texts) // 2)
    return driver.encode_all([texts[(k + shift + seed) % len(texts)] for k in range(len(texts))])


Start = Callable[[Driver, Sequence[str], Sequence[str], int], Conditioning]
STARTS: Mapping[str, Start] = {
    "prompt": from_prompt,
    "noise": from_noise,
    "another": from_another,
}


def find_embeddings(
    driver: Driver,
    clean: Latents,
    start: Conditioning,
    ids: Sequence[str],
    settings: AttackSettings | None = None,
    progress: Callable[[int], None] | None = None,
    slopes: "Slopes | None" = None,
) -> dict[int, Conditioning]:
    """What was found after each number of steps: {steps: conditioning of the images}.

    clean: the latents of the images sought; start: where each search begins; searched are the
    leaves that the driver names, together. Images are independent: each has its own draws (by its
    id and the seed) and, since Adam works element by element and the losses add up, its own
    optimiser state. No gradient reaches the model. `progress` is told the images of each finished
    step. slopes: the driver's, for searches that follow one another.
    """
    settings = settings or AttackSettings()
    slopes = slopes or Slopes(driver)
    parts: list[dict[int, Conditioning]] = []
    for first in range(0, len(ids), settings.batch):
        part = slice(first, first + settings.batch)
        parts.append(_search(slopes, clean[part], start[part], ids[part], settings, progress))
    return {steps: Conditioning.cat([part[steps] for part in parts]) for steps in settings.steps}


def _search(
    slopes: "Slopes",
    clean: Tensor,
    start: Conditioning,
    ids: Sequence[str],
    settings: AttackSettings,
    progress: Callable[[int], None] | None,
) -> dict[int, Conditioning]:
    driver = slopes.driver
    sought = start.sought()
    optimiser = torch.optim.Adam(sought.values(), lr=settings.learning_rate)
    sources = [generator(name, settings.seed) for name in ids]
    targets = clean.repeat_interleave(settings.draws, 0)
    found: dict[int, Conditioning] = {}
    fitting = driver.portion(len(targets), gradients=True)
    for step in range(1, settings.steps[-1] + 1):
        draws = _draw(driver, clean, sources, settings.draws)

        def gradients_of(rows: slice, draws: tuple[Tensor, Tensor] = draws) -> tuple[Tensor, ...]:
            return slopes(targets, start, sought, *draws, rows)

        parts = fitting.over(len(targets), gradients_of)
        for leaf, gradients in zip(sought.values(), zip(*parts, strict=True), strict=True):
            leaf.grad = reduce(add, gradients)
        optimiser.step()
        if step in settings.steps:
            found[step] = start.found({n: leaf.detach().clone() for n, leaf in sought.items()})
        if progress:
            progress(len(ids))
    return found


class Slopes:
    """How the images' losses change with what is sought.

    On a CUDA device a small model is replayed, and so again in later searches of one shape: its
    weights may change in place meanwhile.
    """

    asked: tuple[Conditioning, int, slice]  # where the search began, draws an image, rows
    shared: Any = None  # what is told besides tensors: for good, if replayed

    def __init__(self, driver: Driver, graphs: bool = True):
        self.driver, self.gradients = driver, Gradients(driver.model)
        small = parameters(driver.model) < SMALL
        self.replayed = Replayed(self._of, on=graphs and small and self.gradients.scale == 1)

    def __call__(
        self,
        targets: Tensor,
        start: Conditioning,
        sought: Mapping[str, Tensor],
        noise: Tensor,
        times: Tensor,
        rows: slice,
    ) -> tuple[Tensor, ...]:
        """The gradients by the leaves `sought` of the losses of these rows, the mean over draws."""
        path, draws = self.driver.path, len(targets) // len(start)
        clean, noise, times = targets[rows], noise[rows], times[rows]
        noisy, exact = path.add(clean, noise, times), wide(path.target(clean, noise, times))
        self.asked = start, draws, rows
        others = [leaf for name, leaf in start.leaves.items() if name not in sought]
        calls = self.driver.calls_of(times, start.repeat_interleave(draws)[rows])
        self.shared = start.shared if self.shared is None else self.shared
        plain = len(clean) == len(targets) and calls is None and start.shared is self.shared
        run = self.replayed if plain else self._of  # what is replayed makes the same calls
        return run(noisy, exact, times, *sought.values(), *others)

    def _of(
        self, noisy: Tensor, exact: Tensor, times: Tensor, *leaves: Tensor
    ) -> tuple[Tensor, ...]:
        start, draws, rows = self.asked
        others = [name for name in start.leaves if name not in start.searched]
        sought = {
            name: leaf.detach().requires_grad_()
            for name, leaf in zip(start.searched, leaves, strict=False)
        }
        start = start.told(dict(zip(others, leaves[len(sought) :], strict=True)))
        with torch.enable_grad():
            told = start.found(sought).repeat_interleave(draws)[rows]
            error = wide(self.driver.predict(noisy, times, told)) - exact
            losses = error.square().flatten(1).mean(1)
            return self.gradients.of(losses.sum() / draws, list(sought.values()))


def _draw(
    driver: Driver, clean: Tensor, sources: Sequence[torch.Generator], draws: int
) -> tuple[Tensor, Tensor]:
    """For every image its own next noise [images * draws, ...] and times [images * draws]."""
    shape = (draws, *clean.shape[1:])
    noise = torch.cat([torch.randn(shape, generator=source) for source in sources])
    times = torch.cat([driver.path.drawn(draws, source) for source in sources])
    return noise.to(clean), times.to(clean.device)
