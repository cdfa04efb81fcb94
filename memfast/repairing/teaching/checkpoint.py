"""A repair's state on disk: the model, Adam's moments, what else goes on with it, the errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from memfast.errors import InputError, reading
from memfast.files import check_finite, first_difference, load_tensors, read_header, save_tensors

KIND, FORMAT = "repair", 3
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@runtime_checkable
class Part(Protocol):
    """What goes on with a repair beside the model: the embeddings under attack, averages."""

    def state(self) -> dict[str, Tensor]:
        """Its tensors: a copy."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from them."""
        ...


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Adam,
    states: Mapping[str, dict[str, Tensor]],
    header: dict[str, Any],
) -> None:
    """Write the state, whole or not at all; `states`: those of its parts, by name; `header` says
    what it is of, and its "step".

    Raises InputError for a state that is not finite: nothing could go on from it.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{name}": moments[name] for name in MOMENTS}
    tensors |= {f"{part}/{n}": value for part, own in states.items() for n, value in own.items()}
    check_finite(path, tensors)
    save_tensors(path, tensors, {**header, "kind": KIND, "format": FORMAT})


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Adam,
    parts: Mapping[str, Part],
    expected: dict[str, Any],
) -> dict[str, Any]:
    """Restore the state; returns its header.

    Raises InputError for a checkpoint of another repair than `expected` says, naming what differs.
    """
    tensors, header = load_tensors(path, KIND, FORMAT, finite=True)
    for key, value in expected.items():
        if (there := header.get(key)) != value:
            told = _difference(there, value)
            raise InputError(
                f"checkpoint {path}: of another repair ({key}: {told}); remove it to begin anew"
            )
    with reading(f"checkpoint {path}"):
        model.load_state_dict(_under("model/", tensors))
        state = optimiser.state_dict()
        moments = _under("adam/", tensors)
        state["state"] = {
            index: {name: moments[f"{index}/{name}"] for name in MOMENTS}
            for index in sorted({int(key.split("/")[0]) for key in moments})
        }
        optimiser.load_state_dict(state)
        for name, part in parts.items():
            part.restore(_under(f"{name}/", tensors))
        if not isinstance(header["step"], int) or len(header["history"]) != header["step"]:
            raise InputError("damaged (its step and its history do not agree)")
    return header


def steps_in(path: Path) -> int:
    """How many steps a checkpoint holds; 0 where there is none."""
    header = read_header(path)
    return int(header.get("step", 0)) if header.get("kind") == KIND else 0


def _difference(there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        return first_difference(there, here)
    return f"{_short(there)} there, {_short(here)} here"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
