"""A VAE on any number of images: as many at once as fit, and one in tiles where it does not."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks.group_offloading import _get_group_onload_device, _is_group_offload_enabled
from torch import Tensor

from memfast.errors import is_out_of_memory
from memfast.memory.free import free_memory
from memfast.memory.portions import Portion

MAPS = 11  # full-size maps of the first block's channels alive at once, counted: Stable Diffusion's
SHARE = 0.5  # of the free memory
PIXELS = 1 << 21  # at once: more keep no device busier


def row_bytes(vae: Any, pixels: int) -> int:
    """What an image takes at most, of a VAE that computes in float32 at least where asked."""
    config = vae.config
    widths = next(
        (
            found
            for name in ("block_out_channels", "decoder_block_out_channels", "base_dim")
            if (found := getattr(config, name, None)) is not None
        ),
        128,
    )
    channels = widths if isinstance(widths, int) else widths[0]
    size = 4 if getattr(config, "force_upcast", False) else vae.dtype.itemsize
    return MAPS * channels * pixels * size


def computes_on(vae: Any) -> torch.device:
    """Where a VAE will be when it is called: where it is, or where its offloading takes it."""
    taken = getattr(getattr(vae, "_hf_hook", None), "execution_device", None)
    if taken is not None:
        return torch.device(taken)
    return _get_group_onload_device(vae) if _is_group_offload_enabled(vae) else vae.device


def at_once(pixels: int) -> int:
    """How many images of so many pixels are worked on together, at most."""
    return max(1, PIXELS // pixels)


def in_slices(vae: Any, pixels: int, values: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` on all of the first dimension of `values`; pixels: of one image or clip."""
    device = computes_on(vae)
    rows = min(at_once(pixels), int(SHARE * free_memory(device) / row_bytes(vae, pixels)))
    fitting = Portion(max(1, rows), device)
    return torch.cat([*fitting.over(len(values), lambda part: _or_tiled(vae, values[part], work))])


def _or_tiled(vae: Any, values: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        return work(values)
    except Exception as error:
        if not is_out_of_memory(error) or len(values) > 1 or not hasattr(vae, "enable_tiling"):
            raise
    before = getattr(vae, "use_tiling", False)
    vae.enable_tiling()
    try:
        return work(values)
    finally:
        vae.use_tiling = before
