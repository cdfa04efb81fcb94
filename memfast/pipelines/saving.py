"""Writing a pipeline folder: whole, or not at all, and fit to be published."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from memfast.errors import reading
from memfast.files import atomic_write_json, check_replaceable, replace_folder, try_out
from memfast.pipelines.finite import check_weights
from memfast.pipelines.opening.naming import is_hub_id

KIND = "model"
SOURCES = ("_name_or_path", "name_or_path")  # in configs: where the part was loaded from


def save_pipeline(
    pipeline: DiffusionPipeline,
    folder: Path,
    overwrite: bool = False,
    finish: Callable[[Path], object] | None = None,
    spent: Mapping[Path, str] | None = None,
    **how: Any,
) -> None:
    """Write a pipeline folder: whole, or not at all.

    `finish` may add to the unfinished folder; `spent` is what `replace_folder` then deletes; `how`
    goes to `save_pretrained` (variant, max_shard_size). With `overwrite`, an older folder that
    memfast wrote is replaced. Configs do not name where on this machine their parts came from.
    Raises InputError for weights that are not finite and for a folder that `check_room` refuses.
    """
    check_weights(f"--out {folder}: nothing is saved", pipeline.components)

    def write(unfinished: Path) -> None:
        with reading(f"--out {folder}", "written"):
            pipeline.save_pretrained(unfinished, **how)
        for path in [*unfinished.rglob("*config.json"), unfinished / "model_index.json"]:
            _without_sources(path)
        if finish is not None:
            finish(unfinished)

    replace_folder(folder, write, KIND, overwrite, spent)


def check_room(folder: Path, overwrite: bool, pipeline: DiffusionPipeline | None = None) -> None:
    """Raise InputError where `save_pipeline` would, before the work: for a folder that may not be
    replaced or written, or too little space for the pipeline, where that is known."""
    check_replaceable(folder, KIND, overwrite)
    parts = pipeline.components.values() if pipeline is not None else ()
    models = [part for part in parts if isinstance(part, nn.Module)]
    try_out(folder, sum(p.numel() * p.element_size() for m in models for p in m.parameters()))


def _without_sources(path: Path) -> None:
    """Drop the names of this machine's folders from a config; hub ids stay."""
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in SOURCES or is_hub_id(value)}
    if kept != config:
        atomic_write_json(path, kept)
