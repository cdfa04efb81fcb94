"""What kinds with Flux's blocks share."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents


class FluxBlocks(Driver):
    """Blocks with a feed-forward for text and one for the image, then single blocks for both."""

    halves = (CONDITIONAL, UNCONDITIONAL)
    together = False
    streams: ClassVar[Mapping[str, str]] = {
        "ff_context": "text",
        "single_transformer_blocks": "text+image",
    }

    def check(self) -> None:
        super().check()
        transformer = self.pipeline.transformer
        self.check_channels(transformer.config.in_channels, transformer.out_channels)

    def model_time(self, times: Float[Tensor, " rows"]) -> Tensor:
        return times.to(self.dtype) / 1000


class Packed(FluxBlocks):
    """Latents are rows, each of a square of four."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        side = self.pipeline.default_sample_size // 2
        rows, columns = self.grid((side, side), 2 * self.pipeline.vae_scale_factor)
        return self.pipeline.transformer.config.in_channels // 4, 2 * rows, 2 * columns

    def pack(self, maps: Tensor) -> Latents:
        return self.pipeline._pack_latents(maps, *maps.shape)

    def unpack(self, latents: Latents) -> Tensor:
        return self.pipeline._unpack_latents(latents, *self.size, self.pipeline.vae_scale_factor)
