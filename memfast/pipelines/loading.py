"""Loading a pipeline by name and asking it what every step needs to know about it."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from memfast.blocks import compact_class  # noqa: F401  tells diffusers of the compact classes
from memfast.errors import InputError

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


def replace_denoiser(pipeline: DiffusionPipeline, model: nn.Module) -> None:
    """Put another model in the denoiser's place, in the pipeline itself."""
    setattr(pipeline, denoiser_name(pipeline), model)


def denoiser_of(pipeline: DiffusionPipeline) -> nn.Module:
    """The pipeline's unet or transformer."""
    return getattr(pipeline, denoiser_name(pipeline))
