"""The table of backends. None is imported before it is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Backend:
    """module: where `geglu`, `geglu_linear`, `column_moments` and `merge` are; runs: on what."""

    module: str
    runs: Callable[[torch.device, torch.dtype], bool]


def _triton_runs(device: torch.device, dtype: torch.dtype) -> bool:
    if dtype == torch.float64 or find_spec("triton") is None:
        return False
    from triton import knobs

    return device.type in ("cuda", "xpu") or bool(knobs.runtime.interpret)


BACKENDS: dict[str, Backend] = {
    "reference": Backend("reference", lambda device, dtype: True),
    "cpu": Backend("cpu", lambda device, dtype: device.type == "cpu"),
    "triton": Backend("triton_backend", _triton_runs),
}
PREFERRED = {"cpu": "cpu", "cuda": "triton", "xpu": "triton"}


def available(device: torch.device, dtype: torch.dtype = torch.float32) -> list[str]:
    """Names of the backends that can run on `device` in `dtype`."""
    return [name for name, backend in BACKENDS.items() if backend.runs(device, dtype)]


def load(name: str, tensor: Tensor) -> ModuleType:
    """The named backend's module, or the tensor's device's own where `name` is "".

    Raises ValueError, listing those that can run, for a named one that cannot.
    """
    return _module(name, tensor.device, tensor.dtype)


@cache
def _module(name: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
    backend = BACKENDS.get(name or PREFERRED.get(device.type, "reference"))
    if backend is None or not backend.runs(device, dtype):
        if name:
            usable = ", ".join(available(device, dtype))
            raise ValueError(
                f"backend={name!r} cannot run {dtype} on {device}: choose from {usable}"
            )
        backend = BACKENDS["reference"]
    return import_module(f".{backend.module}", __package__)
