"""Wan 2.1 and 2.2: videos; UMT5; one transformer, or two of which the noise level chooses."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from memfast.errors import InputError
from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.codecs import Images, Scaled
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents, Times, several
from memfast.pipelines.loading import denoisers_of
from memfast.pipelines.schedule import KEY, Schedule


class Wan(Driver):
    """Frames are the image's axis; a video's picture is its middle frame.

    Text is padded to one length with zeros, read by cross-attention alone, not masked: what a
    prompt is read as does not depend on its batch.
    """

    kind = "Wan"
    pipelines = ("WanPipeline",)
    siblings = ("WanVideoToVideoPipeline", "WanImageToVideoPipeline")
    halves = (CONDITIONAL, UNCONDITIONAL)
    together = False

    def check(self) -> None:
        super().check()
        models: Any = denoisers_of(self.pipeline)
        for model in models.values():
            self.check_channels(model.config.in_channels, self.pipeline.vae.config.z_dim)

    # ------------------------------------------------------------------ frames

    @property
    def frames(self) -> int:  # type: ignore[override]
        """How many a video has: as asked, else as the folder says, else the pipeline's own."""
        remembered = self.pipeline.scheduler.config.get(KEY) or {}
        asked = self.asked.get("num_frames") or remembered.get("num_frames")
        return asked or default(self.pipeline, "num_frames")

    def check_size(self) -> None:
        super().check_size()
        every = self.pipeline.vae_scale_factor_temporal
        if self.frames % every != 1 % every:
            raise InputError(f"num_frames {self.frames}: must be 1 more than a multiple of {every}")

    def call(self, prompts: int, schedule: Schedule) -> Arguments:
        return super().call(prompts, schedule) | {"num_frames": self.frames}

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.noise_shape[-2:]
        scale = self.pipeline.vae_scale_factor_spatial
        return height * scale, width * scale

    @cached_property
    def codec(self) -> "Videos":
        return Videos(self.pipeline.vae, self.latent_shape[1])

    def pictures(self, output: Any) -> Images:
        return output[:, output.shape[1] // 2]

    # ------------------------------------------------------------------ two transformers

    def denoising(self, time: Times) -> nn.Module:
        first = torch.as_tensor(time).flatten()[0]
        return [*self.models.values()][int(len(self.models) > 1 and first < self._boundary)]

    def calls_of(self, time: Times, conditioning: Conditioning) -> Int64[Tensor, " rows"] | None:
        """0 where the noise is high, 1 below the boundary."""
        if len(self.models) == 1:
            return None
        return (several(time, len(conditioning), self.device) < self._boundary).long()

    @property
    def _boundary(self) -> float:
        return self.pipeline.config.boundary_ratio * self.path.training_steps

    def arguments(self, latents: Latents, time: Times, conditioning: Conditioning) -> Arguments:
        told = super().arguments(latents, time, conditioning)
        if self.pipeline.config.expand_timesteps:  # a time for every patch, all the same
            patches = latents[0, 0, :, ::2, ::2].numel()
            told[self.time_argument] = told[self.time_argument][:, None].expand(-1, patches)
        return told

    # ------------------------------------------------------------------ text

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        limit = default(self.pipeline, "max_sequence_length")
        ids = self.pipeline.tokenizer([prompt_clean(text) for text in texts], verbose=False)
        return torch.tensor([len(tokens) > limit for tokens in ids.input_ids], dtype=torch.bool)


class Videos(Scaled):
    """Latents of videos: an image is a video that stands still, a video's image its middle frame.

    Frames depend on no later ones, so that only the first half is decoded.
    """

    def __init__(self, vae: Any, latent_frames: int):
        super().__init__(vae)
        self.frames = (latent_frames - 1) * vae.config.scale_factor_temporal + 1

    def encode(self, images: Images) -> Tensor:
        still = images[:, :, None].expand(-1, -1, self.frames, -1, -1)
        return torch.cat([super(Videos, self).encode(one) for one in still.split(1)])

    def decode(self, latents: Tensor) -> Images:
        middle = self.frames // 2
        needed = math.ceil(middle / self.vae.config.scale_factor_temporal) + 1
        halves = latents[:, :, :needed].split(1)
        return torch.cat([super(Videos, self).decode(one)[:, :, middle] for one in halves])
