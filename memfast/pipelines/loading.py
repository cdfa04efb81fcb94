"""Loading a pipeline by name, and its denoiser's place in it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from math import prod
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import nn

from memfast.blocks import compact_class  # noqa: F401  tells diffusers of the compact classes
from memfast.blocks.denoisers import Denoisers
from memfast.blocks.families import uncompiled
from memfast.errors import InputError, reading
from memfast.pipelines.finite import check_weights
from memfast.pipelines.opening.naming import find_model, not_loaded
from memfast.pipelines.opening.portable import portable_from_hub, portable_parts
from memfast.pipelines.opening.single_file import load_single_file

WEIGHTS = "diffusion_pytorch_model"
INDEX = "model_index.json"


def load_pipeline(
    model: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    variant: str | None = None,
) -> DiffusionPipeline:
    """A diffusers pipeline: "demo" (the embedded model), a folder, one file, or a hub id.

    variant: of the weights' files, "fp16" for model.fp16.safetensors; a folder that holds but one
    is read by itself. No pickle is opened, and no code of a folder's is run.
    Raises InputError if there is no such model, it lacks weights, has some that are not finite, or
    cannot be loaded.
    """
    name, folder = f"MODEL {model}", find_model(model)
    if folder is None:
        with _loading(model):
            folder = portable_from_hub(str(model), INDEX)
    if folder is not None:
        if not folder.is_dir():
            return _ready(load_single_file(folder, dtype), device, name)
        variant = variant or _variant(folder, _index(folder, name), name)
    source = Path(model) if folder is None else folder
    with _loading(model), nullcontext() if folder is None else _without_bars():
        pipeline = DiffusionPipeline.from_pretrained(
            str(source),
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            **_absent_parts(_json(source / INDEX)),
            **portable_parts(source, _json(source / INDEX), dtype, variant),
        )
    if folder is not None:
        _check_all_there(folder, pipeline, name)
    return _ready(pipeline, device, name)


@contextmanager
def _loading(model: str | Path) -> Iterator[None]:
    """Whatever a damaged, unknown or unreachable model makes libraries raise becomes InputError."""
    try:
        yield
    except Exception as error:
        raise not_loaded(model, error) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Within the context diffusers and transformers show no progress of their own: all is here."""
    with ExitStack() as stack:
        for log in (diffusers.utils.logging, transformers.utils.logging):
            if log.is_progress_bar_enabled():
                log.disable_progress_bar()
                stack.callback(log.enable_progress_bar)
        yield


def _ready(pipeline: Any, device: str | torch.device, name: str) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    pipeline = pipeline.to(device)
    check_weights(name, pipeline.components)  # there, which reads them fastest
    return pipeline


def _index(folder: Path, name: str) -> dict[str, Any]:
    """The folder's model_index.json."""
    path = folder / INDEX
    if not path.is_file():
        config = _json(folder / "config.json")
        if "_class_name" in config:
            raise InputError(
                f"{name}: a {config['_class_name']} alone; give the folder of the pipeline that "
                "it belongs to (the one with model_index.json)"
            )
        raise InputError(f"{name}: a folder without model_index.json; not a diffusers pipeline")
    index = _json(path)
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not hasattr(diffusers, kind):
        raise InputError(
            f"{name}: model_index.json names the pipeline {kind!r}, which this diffusers "
            f"({diffusers.__version__}) does not know"
        )
    return index


def _absent_parts(index: dict[str, Any]) -> dict[str, None]:
    """{name: None} of the parts that a pipeline was saved without, though its class asks for them
    (Stable Diffusion 3 without T5): diffusers saves such folders and does not load them."""
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    optional = getattr(kind, "_optional_components", [])
    absent = [name for name, entry in index.items() if entry == [None, None]]
    return {name: None for name in absent if name not in optional}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _variant(folder: Path, index: dict[str, Any], name: str) -> str | None:
    """The one variant of a folder whose denoiser has no plain weights."""
    for part in ("unet", "transformer"):
        files = [file.name for file in (folder / part).glob(f"{WEIGHTS}*.safetensors")]
        kinds = {file.split(".")[1] if file.count(".") > 1 else None for file in files}
        kinds = {kind and kind.split("-")[0] for kind in kinds}
        if len(kinds) > 1 and None not in kinds:
            listed = ", ".join(sorted(str(kind) for kind in kinds))
            raise InputError(f"{name}: holds the variants {listed}; name one (variant=…)")
        if kinds and None not in kinds:
            return kinds.pop()
    return None


def _check_all_there(folder: Path, pipeline: Any, name: str) -> None:
    """Raise InputError for a part some of whose weights no file holds: left alone, the libraries
    draw them at random."""
    for part, model in pipeline.components.items():
        files = list((folder / part).glob("*.safetensors"))
        if not isinstance(model, nn.Module) or not files:
            continue
        if getattr(model.config, "quantization_config", None):
            continue
        with reading(f"{name}: {part}"):
            held = {key: size for file in files for key, size in _sizes(file)}
        needed = dict(model.named_parameters())
        if any(file.name.startswith(WEIGHTS) for file in files):
            lacking = [key for key in needed if key not in held]
        else:  # transformers may call them otherwise than the file does
            short = sum(p.numel() for p in needed.values()) - sum(held.values())
            lacking = [key for key in needed if key not in held] if short > 0 else []
        if lacking:
            raise InputError(
                f"{name}: {part} lacks {len(lacking)} of its weights, the first {lacking[0]}; "
                "download or save it again"
            )


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """How many numbers each tensor of a file has."""
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118  it is no dict
            yield key, prod(file.get_slice(key).get_shape())


def denoisers_of(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The components that denoise, by name: two where the noise level decides (Wan 2.2).

    Raises InputError where there is none.
    """
    names = ["unet", "transformer"]
    if pipeline.config.get("boundary_ratio") is not None:
        names.append("transformer_2")
    found = {name: model for name in names if (model := getattr(pipeline, name, None)) is not None}
    if not found:
        raise InputError(
            f"{type(pipeline).__name__} has no denoiser; "
            "pipelines with a unet or a transformer are known"
        )
    return found


def denoiser_of(pipeline: DiffusionPipeline) -> nn.Module:
    """The pipeline's unet or transformer; several as one model."""
    found = denoisers_of(pipeline)
    return (
        next(iter(found.values()))
        if len(found) == 1
        else Denoisers({name: uncompiled(model) for name, model in found.items()})
    )


def replace_denoiser(pipeline: DiffusionPipeline, model: nn.Module) -> None:
    """Put another model where `denoiser_of` found one, in the pipeline itself."""
    several = isinstance(model, Denoisers)
    parts = dict(model.items()) if several else dict.fromkeys([*denoisers_of(pipeline)][:1], model)
    for name, part in parts.items():
        setattr(pipeline, name, part)
