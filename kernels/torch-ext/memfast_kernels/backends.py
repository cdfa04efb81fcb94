"""The table of backends. None is imported before it is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch


@dataclass(frozen=True)
class Backend:
    """module: where `geglu`, `geglu_linear` and `column_moments` are; runs: on which devices."""

    module: str
    runs: Callable[[torch.device], bool]


def _triton_runs(device: torch.device) -> bool:
    if find_spec("triton") is None:
        return False
    from triton import knobs

    return device.type in ("cuda", "xpu") or bool(knobs.runtime.interpret)


BACKENDS: dict[str, Backend] = {
    "reference": Backend("reference", lambda device: True),
    "cpu": Backend("cpu", lambda device: device.type == "cpu"),
    "triton": Backend("triton_backend", _triton_runs),
}
PREFERRED = {"cpu": "cpu", "cuda": "triton", "xpu": "triton"}


def available(device: torch.device) -> list[str]:
    """Names of the backends that can run on `device`."""
    return [name for name, backend in BACKENDS.items() if backend.runs(device)]


def load(name: str, device: torch.device) -> ModuleType:
    """The named backend's module, or the device's own where `name` is "".

    Raises ValueError, listing those that can run, for a named one that cannot.
    """
    usable = available(device)
    preferred = PREFERRED.get(device.type, "reference")
    chosen = name or (preferred if preferred in usable else "reference")
    if chosen not in usable:
        raise ValueError(
            f"backend={name!r} cannot run on {device}: choose from {', '.join(usable)}"
        )
    return import_module(f".{BACKENDS[chosen].module}", __package__)
