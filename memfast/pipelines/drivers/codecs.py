"""Images to latents and back, in the VAE's own dtype."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.pipelines.drivers.slices import computes_on, in_slices

Images = Float[Tensor, "images 3 height width"]
Pixels = Float[Tensor, "images 3 *size"]  # of a video too
Maps = Float[Tensor, "images channels *latent_size"]


@runtime_checkable
class Codec(Protocol):
    """Images in [0, 1] [images, 3, height, width] and the latents that a path adds noise to."""

    def encode(self, images: Images) -> Tensor:
        """Latents (the posterior's mean)."""
        ...

    def decode(self, latents: Tensor) -> Images:
        """Images."""
        ...


class Scaled:
    """(z - shift) · scale, or by each channel's mean and deviation where the config has them."""

    def __init__(self, vae: Any):
        self.vae = vae

    def encode(self, images: Pixels) -> Maps:
        with upcast(self.vae):
            return in_slices(self.vae, images[0, 0].numel(), images, self._encode)

    def _encode(self, images: Pixels) -> Maps:
        coded = self.vae.encode(2 * images.to(computes_on(self.vae), self.vae.dtype) - 1)
        held = getattr(coded, "latent_dist", None)
        return self.normalised(coded.latent if held is None else held.mean)

    def decode(self, latents: Maps) -> Pixels:
        with upcast(self.vae):
            pixels = latents[0, 0].numel() * self._pixels_of_latent
            return in_slices(self.vae, pixels, latents, self._decode)

    def _decode(self, latents: Maps) -> Pixels:
        raw = self.restored(latents).to(computes_on(self.vae), self.vae.dtype)
        return (self.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)

    @property
    def _pixels_of_latent(self) -> int:
        """At most: a video's frames are fewer in latents too."""
        blocks = getattr(self.vae.config, "block_out_channels", None)
        return 4 ** (len(blocks) - 1) if blocks else 256

    @property
    def scale(self) -> float:
        """What latents are multiplied by; 1 where the config has none."""
        return getattr(self.vae.config, "scaling_factor", 1.0)

    def normalised(self, raw: Maps) -> Maps:
        """What the denoiser sees of raw VAE latents."""
        config = self.vae.config
        if getattr(config, "latents_mean", None) is not None:
            mean = channels_of(config, "latents_mean", raw)
            std = channels_of(config, "latents_std", raw)
            return (raw - mean) * self.scale / std
        shift = getattr(config, "shift_factor", None)
        return (raw - shift if shift else raw) * self.scale

    def restored(self, latents: Maps) -> Maps:
        """The inverse of `normalised`."""
        config = self.vae.config
        if getattr(config, "latents_mean", None) is not None:
            mean = channels_of(config, "latents_mean", latents)
            std = channels_of(config, "latents_std", latents)
            return latents * std / self.scale + mean
        shift = getattr(config, "shift_factor", None)
        raw = latents / self.scale
        return raw + shift if shift else raw


def channels_of(config: Any, name: str, like: Tensor) -> Tensor:
    """A config's list of one number a channel, shaped to scale `like` [rows, channels, ...]."""
    values = torch.tensor(getattr(config, name), dtype=like.dtype, device=like.device)
    return values.view(1, -1, *(1,) * (like.ndim - 2))


class upcast:
    """Within the context a VAE whose config asks for it computes in float32."""

    def __init__(self, vae: Any):
        self.vae, self.dtype = vae, vae.dtype
        forced = getattr(vae.config, "force_upcast", False)
        self.needed = bool(forced) and self.dtype == torch.float16

    def __enter__(self) -> None:
        if self.needed:
            self.vae.to(torch.float32)

    def __exit__(self, *_: object) -> None:
        if self.needed:
            self.vae.to(self.dtype)
