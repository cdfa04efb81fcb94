"""What a model is, and everything else that shapes a result."""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from memfast.blocks.families import find_sites
from memfast.blocks.families.finding import uncompiled
from memfast.errors import InputError
from memfast.precision import name_of
from memfast.version import __version__

WHOLE = 100_000_000  # weights that neurons feed, up to so many, are taken whole
SAMPLED = 256  # values of every other parameter


def fingerprint(model: nn.Module) -> str:
    """Identifies a denoiser by its stored weights: the same in every dtype and on every device.

    Of the files that it was loaded from, where it is still what they hold, rounded to its dtype;
    else of what it holds. Taken are the class, all names and shapes, the weights that neurons feed
    (of large models evenly spaced rows), and a sample of the rest, as float32.
    Raises InputError for a model whose weights are neither here nor in a file.
    """
    model = uncompiled(model)
    held = dict(model.named_parameters())
    feeding = {id(site.contraction.weight) for site in find_sites(model).values()}
    total = sum(p.numel() for p in held.values() if id(p) in feeding)
    share = max(1, -(-total // WHOLE))
    steps = {name: share if id(p) in feeding else None for name, p in held.items()}
    stored = _stored(model)
    if stored and _agree(held, stored, steps):
        return _digest(model, stored, steps)
    if any(parameter.is_meta for parameter in held.values()):
        raise InputError(
            "the model's weights are on the meta device (sequential offload), and not those of a "
            "folder; take it before it is offloaded"
        )
    return _digest(model, held, steps)


def _digest(model: nn.Module, tensors: Mapping[str, Tensor], steps: Mapping[str, Any]) -> str:
    digest = sha256(type(model).__name__.encode())
    for name, step in steps.items():
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        values = _taken(tensors[name], step)
        digest.update(values.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _taken(tensor: Tensor, step: int | None) -> Tensor:
    """Every `step`-th row, or (None) a sample of all values."""
    if step is not None:
        return tensor.detach()[::step]
    values = tensor.detach().flatten()
    return values[:: max(1, len(values) // SAMPLED)]


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the files that a model was loaded from, read as they are used; {} if none."""
    if not hasattr(model, "config"):  # several denoisers in one
        parts = {name: _stored(part) for name, part in model.named_children()}
        return {f"{name}.{key}": t for name, part in parts.items() for key, t in part.items()}
    name = getattr(model.config, "_name_or_path", None)
    if not name or not Path(name).is_dir():
        return {}
    try:
        return dict(_tensors(Path(name)))
    except (OSError, SafetensorError, ValueError):
        return {}


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no dict
                yield name, file.get_tensor(name)


def _agree(
    held: Mapping[str, Tensor], stored: Mapping[str, Tensor], steps: Mapping[str, Any]
) -> bool:
    """Whether what is held is what is stored, rounded to its dtype; weights that are offloaded
    are taken to be."""
    for name, parameter in held.items():
        if name not in stored or stored[name].shape != parameter.shape:
            return False
        if not parameter.is_meta:
            own = _taken(parameter, steps[name]).cpu()
            if not torch.equal(own, _taken(stored[name], steps[name]).to(own.dtype)):
                return False
    return True


def schedule_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """The scheduler's class and public settings, as JSON holds them."""
    config = {key: value for key, value in pipeline.scheduler.config.items() if key[0] != "_"}
    return json.loads(
        json.dumps({"class": type(pipeline.scheduler).__name__, **config}, default=str),
        parse_constant=str,  # an infinite setting is no JSON
    )


def made_on(model: nn.Module) -> dict[str, Any]:
    """What decides a result's last bits and nothing else of it: the device and dtype that `model`
    has here and now, CPU threads, versions."""
    first = next(model.parameters())
    return {
        "device": _named(first.device),
        "dtype": name_of(first.dtype),
        "threads": torch.get_num_threads(),
        **versions(),
    }


def _named(device: torch.device) -> str:
    """The device's kind and, of a CUDA or ROCm one, its name: which of several does not matter."""
    if device.type != "cuda":
        return device.type
    return f"{device.type} ({torch.cuda.get_device_name(device)})"


def versions() -> dict[str, Any]:
    """Of everything that shapes a result."""
    import diffusers

    return {"memfast": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
