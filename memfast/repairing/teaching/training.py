"""The outer loop: one forward pass of each model a step, checkpoints, and a stop at the first NaN.

A step's draws depend on the seed and its number alone, so that a repair that was stopped goes on
to the same result.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memfast.errors import InputError
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.finite import not_finite
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.noise import generator
from memfast.precision import float32_weights
from memfast.repairing.teaching.averaging import Average
from memfast.repairing.teaching.checkpoint import Part, load_checkpoint, save_checkpoint
from memfast.repairing.teaching.learning import Learning, clip
from memfast.repairing.teaching.objectives import Material, active, draw, due
from memfast.repairing.teaching.watching import Watch

WARMUP = 10  # steps over which the learning rate rises: Adam's first steps are as large as any
History = list[dict[str, int | float]]  # each step's number and errors


def train(
    student: Driver,
    original: Driver,
    material: Material,
    checkpoint: Path | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    erase: Callable[[], None] | None = None,
    watch: Watch | None = None,
) -> History:
    """Repair `student`'s model in place, all its parameters; returns each step's errors.

    A model of half precision has weights of float32 meanwhile. `erase` changes them before the
    first step. With `checkpoint`, goes on from that file if it is there, and writes it every
    `save_every` steps: once the next step's errors and gradient have shown that the state is a good
    one. `watch` may end it early. Raises InputError when an error, a gradient or a weight is not
    finite, saying where and what is kept, and for a checkpoint of another repair.
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
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            if erase is not None and (checkpoint is None or not checkpoint.exists()):
                erase()
            return _train(student, original, material, expected, checkpoint, progress, watch)
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
    watch: Watch | None,
) -> History:
    settings, model, weights = material.settings, student.model, active(material)
    parameters = list(model.parameters())
    learn = Learning(student, original, settings.features, settings.graphs)
    fused = student.device.type == "cuda"
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=fused)
    average = Average(parameters, settings.ema)
    others: dict[str, Part | None] = {"pool": material.pool, "average": average, "good": watch}
    parts = {name: part for name, part in others.items() if part is not None}
    history: History = []
    first = 0
    if checkpoint is not None and checkpoint.exists():
        header = load_checkpoint(checkpoint, model, optimiser, parts, expected)
        first, history = header["step"], header["history"]
        if watch is not None:
            watch.go_on(header["looks"])
        if progress:
            progress(first)
    saved = first
    pending: dict[str, Tensor] | None = None  # the pool of a state that is not kept yet

    def keep(pool: dict[str, Tensor]) -> None:
        nonlocal saved, pending
        if checkpoint is not None:
            header = {**expected, "step": len(history), "history": history}
            header |= {"looks": watch.header() if watch else []}
            states = {name: part.state() for name, part in parts.items() if name != "pool"}
            save_checkpoint(checkpoint, model, optimiser, {**states, "pool": pool}, header)
            saved, pending = len(history), None

    for step in range(first, settings.steps):
        if watch is not None and watch.over:
            break
        source = generator(f"repair/{step}", settings.seed)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps)
        drawn = draw(due(material, step), material, student, step, source)
        found, gradients = learn(drawn, weights)
        norm = clip(gradients)
        means = [part.mean() for part in found.split(list(drawn.sizes.values()))]
        *values, size = torch.stack([*means, norm]).tolist()
        figures = dict(zip(drawn.sizes, values, strict=True))
        if bad := next((n for n, v in figures.items() if not math.isfinite(v)), None):
            raise InputError(_stopped(f"the {bad} error", step, saved, checkpoint))
        if not math.isfinite(size):
            raise InputError(_stopped("the gradient", step, saved, checkpoint))
        if pending is not None:
            keep(pending)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        optimiser.zero_grad()
        if (name := not_finite(model)) is not None:
            raise InputError(_stopped(f"the weight {name}", step, saved, checkpoint))
        average.follow(step)
        history.append({"step": step, **figures})
        done = step + 1
        if checkpoint is not None and done % settings.save_every == 0:
            pending = pool_of(material)
        if watch is not None and (done % settings.watch == 0 or done == settings.steps):
            with average.in_place():
                watch.look(done)
        if progress:
            progress(1)
    if first < settings.steps:
        keep(pool_of(material))
    average.put()
    if watch is not None and watch.over:
        watch.put()
    return history


def pool_of(material: Material) -> dict[str, Tensor]:
    """What is under attack, as a checkpoint keeps it."""
    return {} if material.pool is None else material.pool.state()


def schedule(step: int, steps: int) -> float:
    """The learning rate's factor: a rise over 10 steps, then a cosine's fall to 0 at the end."""
    return min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2


def _stopped(what: str, step: int, saved: int, checkpoint: Path | None) -> str:
    kept = (
        f"the last good state, after {saved} steps, is kept in {checkpoint}"
        if checkpoint is not None and checkpoint.exists()
        else "nothing is kept"
    )
    return f"repair: {what} is not finite at step {step}; {kept}; go on with a lower learning_rate"
