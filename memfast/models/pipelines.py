"""Loading a pipeline by name and asking it what every step needs to know about it."""

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
        f"{type(pipeline).__name__} has no denoiser; pipelines with a unet or a transformer are known"
    )


def denoiser_of(pipeline: DiffusionPipeline) -> nn.Module:
    """The pipeline's unet or transformer."""
    return getattr(pipeline, denoiser_name(pipeline))


def fingerprint(model: nn.Module) -> str:
    """Identifies a denoiser by its class and the weights (as float32) its neurons feed."""
    digest = sha256(type(model).__name__.encode())
    for path, site in find_sites(model).items():
        weight = site.contraction.weight.detach()
        if weight.is_meta:
            raise InputError("the model's weights are on the meta device (sequential offload)")
        digest.update(path.encode())
        digest.update(weight.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()[:32]


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


def save_pipeline(pipeline: DiffusionPipeline, folder: Path, overwrite: bool = False) -> None:
    """Write a pipeline folder: whole, or not at all.

    Raises InputError for a folder that holds something, unless `overwrite`.
    """
    check_out(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unfinished = Path(temporary) / "pipeline"
        pipeline.save_pretrained(unfinished)
        if folder.exists():
            rmtree(folder)
        unfinished.rename(folder)
