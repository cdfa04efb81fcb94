"""The outer loop: one forward pass of each model a step, checkpoints, and a stop at the first NaN.

A step's draws depend on the seed and its number alone, so that a repair that was stopped goes on
to the same result.
"""

import math
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memfast.errors import InputError
from memfast.memory.portions import Portion
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.finite import not_finite
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.noise import generator
from memfast.precision import Gradients, float32_weights
from memfast.repairing.checkpoint import load_checkpoint, save_checkpoint
from memfast.repairing.objectives import Drawn, Material, active, draw, errors

WARMUP = 10  # steps over which the learning rate rises: Adam's first steps are as large as any
LARGEST_GRADIENT = 1.0  # norm to which a step's gradient is clipped
History = list[dict[str, int | float]]  # each step's number and errors


def train(
    student: Driver,
    original: Driver,
    material: Material,
    checkpoint: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> History:
    """Repair `student`'s model in place, all its parameters; returns each step's errors.

    A model of half precision has weights of float32 meanwhile. With `checkpoint`, goes on from that
    file if it is there, and writes it every `save_every` steps: once the next step's errors and
    gradient have shown that the state is a good one. Raises InputError when an error, a gradient or
    a weight is not finite, saying where and what is kept, and for a checkpoint of another repair.
    """
    settings, model = material.settings, student.model
    if not active(material):
        raise InputError("repair: no objective has a weight and something to draw from")
    expected = {
        "settings": settings.bound(),
        "original": fingerprint(original.model),
        "begun_from": fingerprint(model),
        "material": material.digest,
    }
    try:
        with float32_weights(model):
            return _train(student, original, material, expected, checkpoint, progress)
    finally:
        if getattr(model, "is_gradient_checkpointing", False):
            model.disable_gradient_checkpointing()  # type: ignore[operator]


def _train(
    student: Driver,
    original: Driver,
    material: Material,
    expected: dict[str, Any],
    checkpoint: Path | None,
    progress: Callable[[int], None] | None,
) -> History:
    settings, model, weights = material.settings, student.model, active(material)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    learn = Learning(model, parameters)
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
    history: History = []
    first = 0
    if checkpoint is not None and checkpoint.exists():
        header = load_checkpoint(checkpoint, model, optimiser, material.pool, expected)
        first, history = header["step"], header["history"]
        if progress:
            progress(first)
    saved = first
    pending: dict[str, Tensor] | None = None  # the pool of a state that is not kept yet

    def keep(pool: dict[str, Tensor]) -> None:
        nonlocal saved, pending
        if checkpoint is not None:
            header = {**expected, "step": len(history), "history": history}
            save_checkpoint(checkpoint, model, optimiser, pool, header)
            saved, pending = len(history), None

    for step in range(first, settings.steps):
        source = generator(f"repair/{step}", settings.seed)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps)
        drawn = draw(list(weights), material, student, step, source)
        found, gradients = learn(drawn, student, original, weights)
        parts = zip(drawn.sizes, found.split(list(drawn.sizes.values())), strict=True)
        figures = {name: float(part.mean()) for name, part in parts}
        norm = clip(gradients)
        if bad := next((n for n, v in figures.items() if not math.isfinite(v)), None):
            raise InputError(_stopped(f"the {bad} error", step, saved, checkpoint))
        if not math.isfinite(norm):
            raise InputError(_stopped("the gradient", step, saved, checkpoint))
        if pending is not None:
            keep(pending)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        optimiser.zero_grad()
        if (name := not_finite(model)) is not None:
            raise InputError(_stopped(f"the weight {name}", step, saved, checkpoint))
        history.append({"step": step, **figures})
        if checkpoint is not None and (step + 1) % settings.save_every == 0:
            pending = pool_of(material)
        if progress:
            progress(1)
    if first < settings.steps:
        keep(pool_of(material))
    return history


def pool_of(material: Material) -> dict[str, Tensor]:
    """What is under attack, as a checkpoint keeps it."""
    return {} if material.pool is None else material.pool.state()


class Learning:
    """A step's gradients, in as many portions of its rows as memory asks for.

    Where not all rows fit at once, activations are computed again in the backward pass instead of
    being kept; where that is not enough, gradients of portions are added up.
    """

    def __init__(self, model: Any, parameters: list[nn.Parameter]):
        self.model, self.parameters = model, parameters
        self.gradients = Gradients(model)
        self.fitting: Portion | None = None

    def __call__(
        self, drawn: Drawn, student: Driver, original: Driver, weights: Mapping[str, float]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Each row's error, and the gradients of the weighted sum of the objectives' means."""
        shares = torch.cat([torch.full((n,), weights[k] / n) for k, n in drawn.sizes.items()])

        def part(rows: slice) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            with torch.enable_grad():
                found = errors(drawn, student, original, rows)
                loss = (found * shares[rows].to(found)).sum()
                return found.detach(), self.gradients.of(loss, self.parameters, allow_unused=True)

        fitting = self._portion(student, len(drawn))
        found, gradients = zip(*fitting.over(len(drawn), part), strict=True)
        return torch.cat(found), tuple(map(_added, zip(*gradients, strict=True)))

    def _portion(self, student: Driver, rows: int) -> Portion:
        if self.fitting is None:
            self.fitting = student.portion(rows, gradients=True)
        recomputes = getattr(self.model, "is_gradient_checkpointing", None)
        if self.fitting.rows < rows and recomputes is False:
            self.model.enable_gradient_checkpointing()
            self.fitting = student.portion(rows, gradients=True, checkpointing=True)
        return self.fitting


def _added(gradients: tuple[Tensor | None, ...]) -> Tensor | None:
    given = [gradient for gradient in gradients if gradient is not None]
    return reduce(torch.add, given) if given else None


def schedule(step: int, steps: int) -> float:
    """The learning rate's factor: a rise over 10 steps, then a cosine's fall to 0 at the end."""
    return min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2


def clip(gradients: tuple[Tensor | None, ...]) -> float:
    """Scale the gradients down, in place, to the largest norm; returns the norm that they had."""
    given = [gradient for gradient in gradients if gradient is not None]
    norm = torch.stack([gradient.float().norm() for gradient in given]).norm()
    scale = (LARGEST_GRADIENT / norm.clamp(min=1e-12)).clamp(max=1.0)
    for gradient in given:
        gradient.mul_(scale.to(gradient.dtype))
    return float(norm)


def _stopped(what: str, step: int, saved: int, checkpoint: Path | None) -> str:
    kept = (
        f"the last good state, after {saved} steps, is kept in {checkpoint}"
        if checkpoint is not None and checkpoint.exists()
        else "nothing is kept"
    )
    return f"repair: {what} is not finite at step {step}; {kept}; go on with a lower learning_rate"
