"""A repair's state on disk: the model, Adam's moments, the embeddings under attack, the errors."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memfast.errors import InputError
from memfast.files import load_tensors, save_tensors
from memfast.repairing.pool import Pool

KIND, FORMAT = "repair", 1
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Adam,
    pool: Pool | None,
    header: dict[str, Any],
) -> None:
    """Write the state, whole or not at all; `header` says what it is of, and its "step"."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{name}": moments[name] for name in MOMENTS}
    if pool is not None:
        tensors |= {f"pool/{name}": value for name, value in pool.state().items()}
    save_tensors(path, tensors, {**header, "kind": KIND, "format": FORMAT})


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Adam,
    pool: Pool | None,
    expected: dict[str, Any],
) -> dict[str, Any]:
    """Restore the state; returns its header.

    Raises InputError for a checkpoint of another repair than `expected` says, naming what differs.
    """
    tensors, header = load_tensors(path, KIND, FORMAT)
    for key, value in expected.items():
        if header.get(key) != value:
            raise InputError(
                f"checkpoint {path}: of another repair ({key}: {_short(header.get(key))} there, "
                f"{_short(value)} here); remove it to begin anew"
            )
    model.load_state_dict(_under("model/", tensors))
    state = optimiser.state_dict()
    moments = _under("adam/", tensors)
    state["state"] = {
        index: {name: moments[f"{index}/{name}"] for name in MOMENTS}
        for index in sorted({int(key.split("/")[0]) for key in moments})
    }
    optimiser.load_state_dict(state)
    if pool is not None:
        pool.restore(_under("pool/", tensors))
    return header


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
