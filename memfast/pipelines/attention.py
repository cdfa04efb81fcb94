"""Choosing the attention kernel."""

from diffusers import DiffusionPipeline

from memfast.errors import InputError
from memfast.pipelines.loading import denoisers_of


def set_attention(pipeline: DiffusionPipeline, kernel: str) -> str:
    """Choose the attention kernel, "auto", "sdpa" or "xformers", and return the one in use.

    "auto" is SDPA. Raises InputError for an unknown kernel, or xformers where it cannot run.
    """
    if kernel in ("auto", "sdpa"):
        return "sdpa"
    if kernel != "xformers":
        raise InputError(f"attention must be one of auto, sdpa, xformers, not {kernel!r}")
    try:
        for name, model in denoisers_of(pipeline).items():
            if name == "unet":
                model.enable_xformers_memory_efficient_attention()  # type: ignore[operator]
            else:
                model.set_attention_backend("xformers")  # type: ignore[operator]
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
