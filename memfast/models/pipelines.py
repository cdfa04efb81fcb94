"""Loading a pipeline by name and asking it what every step needs to know about it."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from memfast.errors import InputError
from memfast.files import check_out
from memfast.models import compact_class  # noqa: F401  tells diffusers of the compact classes
from memfast.models.families import find_sites

DEMO = Path(__file__).parents[1] / "demo" / "data" / "pipeline"


def load_pipeline(
    model: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> DiffusionPipeline:
    """A diffusers pipeline: "demo" (the embedded model), a folder, or a hub id.

    Raises InputError if there is no such model or it cannot be loaded.
    """
    source = DEMO if str(model) == "demo" else model
    is_folder = Path(source).is_dir()
    if is_folder and not (Path(source) / "model_index.json").is_file():
        raise InputError(
            f"MODEL {model}: a folder without model_index.json; not a diffusers pipeline"
        )
    if not is_folder and (Path(source).is_absolute() or str(source).startswith((".", "~"))):
        raise InputError(f"MODEL {model}: no such folder; give 'demo', a folder or a hub id")
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"MODEL {model}: cannot be loaded ({reason}); give 'demo', a folder or a hub id"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def denoiser_name(pipeline: DiffusionPipeline) -> str:
    """The component that denoises: "unet" or "transformer"."""
    for name in ("unet", "transformer"):
        if getattr(pipeline, name, None) is not None:
            return name
    raise InputError(
        f"{type(pipeline).__name__} has no denoiser; "
        "pipelines with a unet or a transformer are known"
    )


def denoiser_of(pipeline: DiffusionPipeline) -> nn.Module:
    """The pipeline's unet or transformer."""
    return getattr(pipeline, denoiser_name(pipeline))


def fingerprint(model: nn.Module) -> str:
    """Identifies a denoiser: its class, the weights its neurons feed, and a sample of the rest.

    Values are taken as float32; of each other parameter about 256, evenly spaced.
    """
    digest = sha256(type(model).__name__.encode())
    whole = {id(site.contraction.weight) for site in find_sites(model).values()}
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError("the model's weights are on the meta device (sequential offload)")
        values = parameter.detach().flatten()
        if id(parameter) not in whole:
            values = values[:: max(1, len(values) // 256)]
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(values.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()[:32]


def schedule_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """The scheduler's class and public settings, as JSON holds them."""
    config = {key: value for key, value in pipeline.scheduler.config.items() if key[0] != "_"}
    return json.loads(
        json.dumps({"class": type(pipeline.scheduler).__name__, **config}, default=str)
    )


def versions() -> dict[str, Any]:
    """Of everything that shapes a result."""
    import diffusers

    from memfast import __version__

    return {"memfast": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}


def set_attention(pipeline: DiffusionPipeline, kernel: str) -> str:
    """Choose the attention kernel, "auto", "sdpa" or "xformers", and return the one in use.

    "auto" is SDPA. Raises InputError for an unknown kernel, or xformers where it cannot run.
    """
    if kernel in ("auto", "sdpa"):
        return "sdpa"
    if kernel != "xformers":
        raise InputError(f"attention must be one of auto, sdpa, xformers, not {kernel!r}")
    try:
        if denoiser_name(pipeline) == "unet":
            pipeline.enable_xformers_memory_efficient_attention()
        else:
            pipeline.transformer.set_attention_backend("xformers")
    except (
        ImportError,
        ModuleNotFoundError,
        ValueError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"attention 'xformers' cannot run here ({reason}); available: auto, sdpa"
        ) from error
    return "xformers"


def save_pipeline(
    pipeline: DiffusionPipeline,
    folder: Path,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
    **how: Any,
) -> None:
    """Write a pipeline folder: whole, or not at all.

    `finish` may add to the unfinished folder; `how` goes to `save_pretrained` (variant,
    max_shard_size). With `overwrite`, an older pipeline folder is replaced. Raises InputError for
    a folder that holds anything else, or something without `overwrite`.
    """
    check_out(folder, overwrite)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "model_index.json").is_file():
        raise InputError(f"--out {folder}: holds something that is not a pipeline; name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unfinished = Path(temporary) / "pipeline"
        pipeline.save_pretrained(unfinished, **how)
        if finish is not None:
            finish(unfinished)
        if folder.exists():
            rmtree(folder)
        unfinished.rename(folder)
