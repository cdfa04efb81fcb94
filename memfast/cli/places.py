"""Where a model is run: the best device there is, in a dtype that it can do and that fits."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from memfast.errors import InputError, one_line
from memfast.memory.free import free_memory
from memfast.pipelines.opening.naming import find_model
from memfast.precision import name_of

SHARE = 1 / 3  # of free memory that weights of float32 may take
NAMES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Place:
    """A device and dtype, and one line that says why these."""

    device: torch.device
    dtype: torch.dtype
    why: str


def place_for(model: str | Path, device: str = "auto", dtype: str = "auto") -> Place:
    """Where to run a model, a name for `load_pipeline`.

    "auto" is the accelerator where there is one, else the CPU; and float32, or on an accelerator
    bfloat16 (float16 where it cannot do that) for weights that take more than a third of its memory
    in float32. Raises InputError for a device that is not there, a dtype that it cannot do, and
    weights that do not fit, saying what would.
    """
    found = _best() if device == "auto" else _there(device)
    asked = None if dtype == "auto" else getattr(torch, dtype)
    if asked is not None and not can_do(found, asked):
        able = ", ".join(name for name in NAMES if can_do(found, getattr(torch, name)))
        raise InputError(f"--dtype {dtype}: {found} cannot do it; it does {able}")
    values, free = stored_values(model), free_memory(found)
    chosen = asked or _fitting(found, values, free)
    taken = values * chosen.itemsize
    if taken > free:
        raise InputError(
            f"MODEL {model}: its weights take {taken / 1e9:.1f} GB in {name_of(chosen)}, and "
            f"{free / 1e9:.1f} GB are free on {found}; {_what_fits(found, values, free)}"
        )
    reasons = []
    if device == "auto":
        reasons.append("no accelerator is there" if found.type == "cpu" else "the accelerator here")
    if asked is None and chosen != torch.float32:
        reasons.append(f"{4 * values / 1e9:.1f} GB of float32 would crowd {free / 1e9:.1f} GB free")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return Place(found, chosen, f"on {found} in {name_of(chosen)}{why}")


def crowds(values: int, memory: int) -> bool:
    """Whether so many values of float32 take more of a memory than they should."""
    return 4 * values > SHARE * memory


def can_do(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device multiplies matrices of a dtype."""
    try:
        ones = torch.ones(2, 2, device=device, dtype=dtype)
        return bool((ones @ ones).sum().cpu() == 8)
    except (RuntimeError, TypeError, NotImplementedError):
        return False


def devices() -> list[str]:
    """The devices of this machine."""
    best = _best()
    if best.type == "cpu":
        return ["cpu"]
    number = torch.get_device_module(best).device_count()
    several = [f"{best.type}:{n}" for n in range(number)]
    return ["cpu", *(several if number > 1 else [best.type])]


def stored_values(model: str | Path) -> int:
    """How many values the files of a folder hold; 0 where that needs a download to tell."""
    folder = find_model(model)
    if folder is None:
        return 0
    files = [folder] if folder.is_file() else sorted(folder.glob("*/*.safetensors"))
    plain = {path.parent for path in files if path.name.count(".") == 1}
    beside = [path for path in files if path.name.count(".") > 1 and path.parent in plain]
    try:
        return sum(_values(path) for path in files if path not in beside)
    except (OSError, SafetensorError):
        return 0


def _values(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _best() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _there(name: str) -> torch.device:
    try:
        torch.ones(1, device=name).tolist()  # a device that computes: meta does not
    except Exception as error:
        raise InputError(
            f"--device {name}: cannot be used here ({one_line(error)}); "
            f"use auto, {', '.join(devices())}"
        ) from error
    return torch.device(name)


def _fitting(device: torch.device, values: int, free: int) -> torch.dtype:
    if device.type == "cpu" or not crowds(values, free):
        return torch.float32
    return torch.bfloat16 if can_do(device, torch.bfloat16) else torch.float16


def _what_fits(device: torch.device, values: int, free: int) -> str:
    if 2 * values <= free:
        return "--dtype bfloat16 fits"
    if device.type != "cpu":
        return "offload it in Python (enable_model_cpu_offload), or use --device cpu"
    return "it needs a larger machine"
