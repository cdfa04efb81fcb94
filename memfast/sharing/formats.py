"""Saving a pipeline with compact models: for memfast, for anyone's trust, or for any tool.

compact   small; opens with diffusers after `import memfast`.
portable  small; opens with `trust_remote_code=True` where memfast is not installed.
masked    the base's class and shapes, zeros where neurons are gone; any tool opens it.
"""

import json
from collections.abc import Callable
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from memfast.blocks.compact_class import KEYS, PORTABLE, base_of
from memfast.blocks.families import find_sites
from memfast.blocks.families.linears import inputs_of, outputs_of
from memfast.blocks.slicing import KEPT, UNKNOWN, positions
from memfast.errors import InputError
from memfast.files import atomic_write_json, atomic_write_text
from memfast.pipelines.saving import save_pipeline
from memfast.sharing.portable import source_of

FORMATS = ("compact", "portable", "masked")


def save_as(
    pipeline: DiffusionPipeline,
    folder: Path,
    form: str = "compact",
    *,
    overwrite: bool = False,
    card: str | None = None,
    add: Callable[[Path], object] | None = None,
    **how: Any,
) -> None:
    """Write a pipeline folder in one of FORMATS, whole or not at all, with `card` as its README
    and what `add` writes into it.

    `how` goes to `save_pretrained`: variant, max_shard_size. Raises InputError for another format,
    for a folder that may not be written, and for a masked model that would need biases.
    """
    if form not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, not {form!r}")
    compacts = {name: model for name, model in pipeline.components.items() if is_compact(model)}
    if form == "masked":
        pipeline = _with_components(pipeline, {n: to_dense(m) for n, m in compacts.items()})

    def finish(unfinished: Path) -> None:
        if form == "portable":
            for name, model in compacts.items():
                _make_portable(unfinished, name, model)
        if card is not None:
            atomic_write_text(unfinished / "README.md", card)
        if add is not None:
            add(unfinished)

    save_pipeline(pipeline, folder, overwrite, finish, **how)


def is_compact(model: Any) -> bool:
    """Whether `model` has widths of its own."""
    return bool(getattr(getattr(model, "config", None), "ffn_inner_dims", None))


def to_dense(model: Any) -> Any:
    """A compact model in its base's class and shapes: zeros stand for the neurons that are gone.

    Raises InputError for biases that the base class has no place for.
    """
    if model.config.ffn_biases:
        raise InputError(
            f"a masked {base_of(model).__name__} has no biases at "  # type: ignore[union-attr]
            f"{', '.join(model.config.ffn_biases)}: compensate by 'none' or 'least_squares', or "
            "use the compact format"
        )
    dense = _base_instance(model)
    wide = find_sites(dense)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for path, site in wide.items():
        kept: Tensor | None = state.pop(f"{path}.{KEPT}", None)
        if kept is None:
            continue
        if (kept == UNKNOWN).any():  # then one place is as good as another
            kept = torch.arange(len(kept), device=kept.device)
        for expansion, linear in zip(site.layout.expansions, site.expansions, strict=True):
            rows = positions(
                outputs_of(linear), site.neurons, kept, expansion.start, expansion.halves
            )
            for name, parameter in linear.named_parameters(recurse=False):
                key = f"{path}.{expansion.linear}.{name}"
                zeros = state[key].new_zeros(parameter.shape)
                state[key] = zeros.index_copy_(0, rows, state[key])
        linear, key = site.contraction, f"{path}.{site.layout.contraction}.weight"
        columns = positions(inputs_of(linear), site.neurons, kept, site.layout.offset, 1)
        zeros = state[key].new_zeros(linear.weight.shape)
        state[key] = zeros.index_copy_(1, columns, state[key])
    dense.load_state_dict(state, assign=True)
    return dense.train(model.training)


def _base_instance(model: Any) -> Any:
    base: Any = base_of(model)
    if hasattr(model, "register_to_config"):
        return base.from_config({k: v for k, v in model.config.items() if k not in KEYS})
    config = deepcopy(model.config)
    for key in KEYS:
        delattr(config, key)
    return base(config)


def _with_components(
    pipeline: DiffusionPipeline, components: dict[str, nn.Module]
) -> DiffusionPipeline:
    other = copy(pipeline)
    other._internal_dict = deepcopy(pipeline._internal_dict)
    other.register_modules(**components)
    return other


def _make_portable(folder: Path, name: str, model: Any) -> None:
    """Put the class's source beside the weights, and point diffusers to it."""
    class_name = type(model).__name__
    atomic_write_text(folder / name / f"{PORTABLE}.py", source_of(model))
    auto_map = {"auto_map": {"AutoModel": f"{PORTABLE}.{class_name}"}}
    for path, change in (
        (folder / name / "config.json", lambda config: config | auto_map),
        (folder / "model_index.json", lambda index: index | {name: [PORTABLE, class_name]}),
    ):
        _edit(path, change)


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    atomic_write_json(path, change(json.loads(path.read_text(encoding="utf-8"))))
