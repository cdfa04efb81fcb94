"""The one training loop: counted steps, seeded batches, an average of the weights, checkpoints.

A batch depends on its step alone, so a run that was interrupted ends with the same weights.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Batch = TypeVar("Batch")
LOG_EVERY, SAVE_EVERY = 100, 500


Schedule = Callable[[int], float]


def cosine(steps: int, peak: float, warmup: int = 100) -> Schedule:
    """Returns the learning rate of a step: linear to `peak`, then half a cosine to a hundredth."""

    def rate(step: int) -> float:
        turn = max(0.0, (step - warmup) / max(1, steps - warmup))
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * turn))
        return peak * min(1.0, (step + 1) / warmup) * fall

    return rate


def plateau(steps: int, peak: float, warmup: int = 100, tail: float = 0.3) -> Schedule:
    """Returns the learning rate of a step: linear to `peak`, flat, in the last `tail` of the steps
    linear to a hundredth. A checkpoint of the flat part serves any number of steps."""

    def rate(step: int) -> float:
        left = (steps - step) / (tail * steps)
        return peak * min(1.0, (step + 1) / warmup, max(0.01, left))

    return rate


def save_atomically(state: dict, path: Path) -> None:
    """Writes `state` with torch.save; a killed run leaves the former file whole."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def fit(
    module: Module,
    batches: Callable[[int], Iterator[Batch]],
    loss: Callable[[Batch], Tensor],
    *,
    steps: int,
    schedule: Schedule,
    checkpoint: Path,
    decay: float = 0.998,
    watch: Callable[[Module], str] | None = None,
) -> Module:
    """Trains the parameters of `module` that require gradients; returns their moving average.

    `batches(start)` yields the batches of steps start, start + 1, …; `loss(batch)` is a scalar.
    Resumes from `checkpoint` where that file exists. `watch(average)` is logged at each save.
    Raises FloatingPointError when the loss is not finite; the last checkpoint stays.
    """
    weights = [p for p in module.parameters() if p.requires_grad]
    average = copy.deepcopy(module).requires_grad_(False).eval()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    followers = [p for name, p in average.named_parameters() if name in trained]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    start, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
    source, total, began = batches(start), 0.0, perf_counter()
    for step in range(start, steps):
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        value = loss(next(source))
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss is {value.item()} at step {step} of {checkpoint.stem}")
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(followers, weights, 1 - min(decay, (1 + step) / (10 + step)))
        total += value.item()
        done = step + 1
        if done % LOG_EVERY == 0:
            passed = perf_counter() - began
            print(
                f"{checkpoint.stem} {done}/{steps} loss {total / LOG_EVERY:.4f} "
                f"{passed / LOG_EVERY:.3f} s/step",
                flush=True,
            )
            seconds, total, began = seconds + passed, 0.0, perf_counter()
        if done % SAVE_EVERY == 0 or done == steps:
            save_atomically(
                {
                    "module": module.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "seconds": seconds,
                },
                checkpoint,
            )
            if watch is not None:
                print(f"{checkpoint.stem} {done}/{steps} {watch(average)}", flush=True)
    return average
