"""The outer loop: one forward pass of each model a step, checkpoints, and a stop at the first NaN.

A step's draws depend on the seed and its number alone, so that a repair that was stopped goes on
to the same result.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from memfast.errors import InputError
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.finite import not_finite
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.noise import generator
from memfast.repairing.checkpoint import load_checkpoint, save_checkpoint
from memfast.repairing.objectives import Material, active, errors

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

    With `checkpoint`, goes on from that file if it is there, and writes it every `save_every`
    steps: once the next step's errors and gradient have shown that the state is a good one. Raises
     InputError when an error, a gradient or a weight is not finite, saying where and
    what is kept, and for a checkpoint of another repair.
    """
    settings, model = material.settings, student.model
    weights = active(material)
    if not weights:
        raise InputError("repair: no objective has a weight and something to draw from")
    expected = {
        "settings": settings.bound(),
        "original": fingerprint(original.model),
        "begun_from": fingerprint(model),
        "material": material.digest,
    }
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
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
        with torch.enable_grad():
            parts = errors(list(weights), material, student, original, step, source)
            loss = torch.stack([weights[name] * parts[name] for name in weights]).sum()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        figures = {name: float(part.detach()) for name, part in parts.items()}
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
