"""memfast plan: memory, operations and time of a command, counted on shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch.utils._pytree import tree_map

from memfast.errors import InputError
from memfast.memory.counting import Count, count, without_memory
from memfast.pipelines.drivers.slices import SHARE as IMAGES_SHARE
from memfast.pipelines.drivers.slices import at_once
from memfast.pipelines.fitting import COUNTED, SHARE, count_call, hollow, made_from
from memfast.planning.parts import Parts
from memfast.precision import name_of

GB = 10**9
GPUS: Mapping[str, tuple[float, float]] = {  # dense half-precision TFLOP/s, GB: vendors' figures
    "T4": (65, 16),
    "L4": (121, 24),
    "RTX 4090": (165, 24),
    "A100": (312, 80),
    "H100": (989, 80),
    "H200": (989, 141),
    "MI300X": (1307, 192),
}
EFFICIENCY = 0.4  # of that, which denoisers reach
TRAINING = 16  # bytes a value: weights, gradients and Adam's two moments, of float32


@dataclass(frozen=True)
class Work:
    """What a command asks of a denoiser.

    useful: items at once. rows: of each, beside guidance. passes: forward passes a prompt, each of
    rows; a gradient counts two more. guided: rows without the prompt come with each.
    """

    useful: int
    rows: int = 1
    passes: int = 1
    gradients: bool = False
    guided: bool = False
    trains: bool = False
    paints: bool = False


COMMANDS: Mapping[str, Work] = {
    "collect": Work(32, passes=10, guided=True),
    "locate": Work(16, passes=8, gradients=True),
    "compact": Work(1),
    "prune": Work(1),
    "audit": Work(64, passes=3),
    "evaluate": Work(48, passes=2 * 50, guided=True, paints=True),
    "attack": Work(128, passes=3 * 50 * 8, gradients=True, paints=True),
    "repair": Work(64, passes=150, gradients=True, trains=True, paints=True),
}


@dataclass(frozen=True)
class Plan:
    """Bytes and operations: of all weights, of a row, and of the command at `batch` rows at once.

    least: at one row. batch: the most rows that fit, at most what is useful; 0 where none does.
    """

    command: str
    dtype: str
    weights: int
    row: int
    picture: int
    batch: int
    bytes: int
    least: int
    flops: int
    passes: int
    checkpointing: bool

    def seconds(self, gpu: str, prompts: int) -> float:
        """An estimate, not a measurement."""
        return self.flops * self.passes * prompts / (GPUS[gpu][0] * 1e12 * EFFICIENCY)


def plan(parts: Parts, command: str, dtype: torch.dtype, memory: int) -> Plan:
    """What `command` takes of `memory` bytes, weights in.

    Raises InputError for an unknown command.
    """
    if command not in COMMANDS:
        raise InputError(f"COMMAND {command}: must be one of {', '.join(COMMANDS)}")
    work = COMMANDS[command]
    weights = sum(parts.values.values()) * dtype.itemsize
    if work.trains:
        weights += parts.denoising * TRAINING
    with torch.no_grad():
        forward = counted(parts, dtype, COUNTED)
    together = parts.rows_a_prompt if work.guided else 1
    row, checkpointing = forward.bytes / COUNTED, False
    room = memory * SHARE - weights
    if work.gradients:
        row = counted(parts, dtype, COUNTED, gradients=True).bytes / COUNTED
        if work.trains and row * work.useful > room:
            checkpointing = True
            row = counted(parts, dtype, COUNTED, gradients=True, checkpointing=True).bytes / COUNTED
    most = work.useful * together
    batch = max(0, min(most, int(room / row))) // together * together
    picture, pictures = picture_bytes(parts, dtype) if work.paints else (0, 0)
    held = max(row * max(batch, 1), min(pictures, max(picture, int(IMAGES_SHARE * room))))
    factor = 3 if work.gradients else 1
    return Plan(
        command,
        name_of(dtype),
        weights,
        int(row),
        picture,
        batch,
        int(weights + held),
        int(weights + max(row * together, picture)),
        forward.flops // COUNTED * factor * (2 if work.guided else 1),
        work.passes,
        checkpointing,
    )


def counted(
    parts: Parts,
    dtype: torch.dtype,
    rows: int,
    gradients: bool = False,
    checkpointing: bool = False,
) -> Count:
    """What one call of the denoiser with so many rows takes."""

    def cast(leaf: Any) -> Any:
        floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else leaf

    with without_memory():
        model: Any = made_from(*parts.denoiser, dtype)
        if checkpointing:
            model.enable_gradient_checkpointing()
        inputs = tree_map(cast, parts.inputs(rows))
        return count_call(model, hollow(inputs), gradients)


def picture_bytes(parts: Parts, dtype: torch.dtype) -> tuple[int, int]:
    """What decoding one picture takes, and as many as are decoded together."""
    config = dict(parts.vae)
    kind = getattr(diffusers, str(config.get("_class_name", "AutoencoderKL")), None)
    if kind is None or "latent_channels" not in config:
        return 0, 0
    own = torch.float32 if dtype == torch.float16 and config.get("force_upcast") else dtype
    side = parts.denoiser[1].get("sample_size") or 128
    side = side if isinstance(side, int) else side[0]
    with without_memory(), torch.no_grad():
        vae: Any = made_from(kind, config, own)
        latents = torch.empty(1, config["latent_channels"], side, side, dtype=own)
        pictures: list[torch.Tensor] = []
        found = count(lambda: pictures.append(vae.decode(latents).sample), vae).bytes
    return found, found * at_once(pictures[0][0, 0].numel())
