"""A pipeline from one file of weights, as they are shared for other programs."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError, safe_open

from memfast.errors import InputError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
KINDS = {  # what diffusers infers from a file's keys -> the pipeline
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "inpainting": "StableDiffusionInpaintPipeline",
    "inpainting_v2": "StableDiffusionInpaintPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "xl_inpaint": "StableDiffusionXLInpaintPipeline",
    "playground-v2-5": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
    "chroma": "ChromaPipeline",
    "auraflow": "AuraFlowPipeline",
    "lumina2": "Lumina2Pipeline",
    "sana": "SanaPipeline",
    "wan-t2v-1.3B": "WanPipeline",
    "wan-t2v-14B": "WanPipeline",
}


def load_single_file(path: Path, dtype: torch.dtype) -> Any:
    """The pipeline whose weights are in one .safetensors file.

    Its config, and parts that the file lacks, come from the hub or its cache. Raises InputError for
    pickles, files of a kind that is not known, and what cannot be loaded.
    """
    if path.suffix in PICKLES:
        raise InputError(
            f"MODEL {path}: a {path.suffix} file is a pickle, which can run code, and is never "
            "opened; on a machine that you can lose, load it with diffusers' from_single_file and "
            "save_pretrained(..., safe_serialization=True), then give that folder"
        )
    if path.suffix != ".safetensors":
        raise InputError(f"MODEL {path}: not a pipeline's folder nor a .safetensors file")
    kind = _kind(path)
    try:
        return getattr(diffusers, kind).from_single_file(str(path), dtype=dtype)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"MODEL {path}: a {kind} in one file, which cannot be loaded ({reason}); its config "
            "comes from the hub: give the folder that save_pretrained writes where there is none"
        ) from error


def _kind(path: Path) -> str:
    """The pipeline class of a file, by the names and shapes of its tensors."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            sizes = [file.get_slice(name).get_shape() for name in names]
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"MODEL {path}: cannot be read ({error})") from error
    tensors = {n: torch.empty(s, device="meta") for n, s in zip(names, sizes, strict=True)}
    try:
        inferred = infer_diffusers_model_type(tensors)
    except Exception:  # it looks for sizes that a foreign file has not
        inferred = None
    if inferred == "v1" and not any(name.startswith("model.diffusion_model.") for name in names):
        inferred = None  # diffusers calls v1 what it knows nothing of
    if inferred not in KINDS:
        raise InputError(
            f"MODEL {path}: no kind of pipeline that is known by one file (its first tensor is "
            f"{next(iter(names), 'missing')}); known: {', '.join(dict.fromkeys(KINDS.values()))}"
        )
    return KINDS[inferred]
