"""LoRAs on a compact model: feed-forward factors of its base are sliced, its own are kept whole."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from memfast.blocks.families import Site, find_sites
from memfast.blocks.slicing import KEPT, UNKNOWN, positions
from memfast.errors import InputError, reading
from memfast.files import there
from memfast.pipelines.loading import denoisers_of
from memfast.pipelines.opening.naming import is_hub_id

# The end of a key says which of the two factors it is: inputs -> rank, or rank -> outputs.
_DOWN = re.compile(r"\.(lora_A|lora_down|lora\.down)(\.\w+)?\.weight$")
_UP = re.compile(r"\.(lora_B|lora_up|lora\.up|lora_magnitude_vector)(\.\w+)?(\.weight)?$")


def load_lora(pipeline: DiffusionPipeline, lora: Any, **how: Any) -> None:
    """`pipeline.load_lora_weights` for a pipeline whose denoiser is compact.

    `lora` is a folder, a file, a hub id or a state dict, made for the base model or for the compact
    one; `how` is passed on (adapter_name, weight_name, …). Raises InputError for what is not there,
    adapters of another kind, and those of another base.
    """
    where = {key: how.pop(key) for key in ("weight_name", "subfolder", "revision") if key in how}
    named = isinstance(lora, str | Path)
    name = f"LoRA {lora}" if named else "LoRA"
    if named and not is_hub_id(lora):
        there(lora, "file or folder", name)
    with reading(name):
        read: Any = pipeline.lora_state_dict(lora, **where)  # type: ignore[attr-defined]
    weights, alphas = (read[0], read[1]) if isinstance(read, tuple) else (read, None)
    models = denoisers_of(pipeline)
    model = models["transformer_2" if how.get("load_into_transformer_2") else next(iter(models))]
    sliced = slice_lora(fold_alphas(weights, alphas or {}), model)
    pipeline.load_lora_weights(sliced, **how)  # type: ignore[attr-defined]


def fold_alphas(
    weights: Mapping[str, Tensor], alphas: Mapping[str, float | None]
) -> dict[str, Tensor]:
    """The same LoRA without alphas: the upper factor is scaled by alpha / rank."""
    folded = dict(weights)
    for key, alpha in alphas.items():
        stem = key.removesuffix(".alpha")
        for name in [k for k in folded if k.startswith(f"{stem}.") and _UP.search(k)]:
            if alpha is not None and folded[name].ndim > 1:
                folded[name] = folded[name] * (alpha / folded[name].shape[1])
    return folded


def slice_lora(weights: Mapping[str, Tensor], model: torch.nn.Module) -> dict[str, Tensor]:
    """A LoRA's state dict with the neurons that `model` still has; other keys, and what is of the
    model's own size already, as they are.

    Keys of diffusers and PEFT are understood. Raises InputError where sizes do not fit the base.
    """
    result = dict(weights)
    for path, site in find_sites(model).items():
        kept = getattr(site.block, KEPT, None)
        if kept is not None:
            for key in weights:
                result[key] = _sliced(key, result[key], path, site, kept.cpu())
    return result


def _sliced(key: str, weight: Tensor, path: str, site: Site, kept: Tensor) -> Tensor:
    layout = site.layout
    up, down = _UP.search(key), _DOWN.search(key)
    match = up or down
    stem = key[: match.start()] if match else key
    for expansion in layout.expansions:
        if _names(stem, f"{path}.{expansion.linear}"):
            _check_kind(key, match)
            if up:
                axis = int(len(weight) == 1)  # of a convolution's magnitudes, [1, outputs, 1, 1]
                size = weight.shape[axis]
                neurons = (size - expansion.start) // expansion.halves
                if neurons == len(kept):
                    return weight
                _check_size(key, path, neurons, kept)
                rows = positions(size, neurons, kept, expansion.start, expansion.halves)
                return weight.index_select(axis, rows)
    if _names(stem, f"{path}.{layout.contraction}"):
        _check_kind(key, match)
        if down:
            neurons = weight.shape[1] - layout.offset
            if neurons == len(kept):
                return weight
            _check_size(key, path, neurons, kept)
            columns = positions(weight.shape[1], neurons, kept, layout.offset, 1)
            return weight.index_select(1, columns)
    return weight


def _names(stem: str, module: str) -> bool:
    return f".{module}." in f".{stem}."


def _check_kind(key: str, match: re.Match[str] | None) -> None:
    if match is None and not key.endswith(".alpha"):
        raise InputError(f"lora: {key} is of another kind than LoRA or DoRA and cannot be sliced")


def _check_size(key: str, path: str, neurons: int, kept: Tensor) -> None:
    if (kept == UNKNOWN).any():
        raise InputError(
            f"{path}: which neurons it kept is unknown (built from a config, without the weights), "
            "so no LoRA of the base can be sliced for it"
        )
    if len(kept) and int(kept.max()) >= neurons:
        raise InputError(
            f"lora: {key} has {neurons} neurons; this model has {len(kept)}, and its base more "
            f"than {int(kept.max())}"
        )
