"""Flux.2, which is told its guidance, and Klein, which has true guidance or none."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, Ended, default, watched
from memfast.pipelines.drivers.codecs import Maps, Scaled
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.packed import FluxBlocks
from memfast.pipelines.drivers.paths import Latents, Times


class Flux2(FluxBlocks):
    """Latents are maps of squares of four, each channel normalised; the denoiser sees rows.

    Text rows are the language model's, the template's among them, padded to the limit and attended
    to without a mask: no prompt depends on its batch. They come first in single blocks.
    """

    kind = "Flux.2"
    pipelines = ("Flux2Pipeline",)
    own = ("guidance",)
    embedded = True

    @property
    def takes_guidance(self) -> bool:
        return self.pipeline.transformer.config.guidance_embeds

    @property
    def noise_shape(self) -> tuple[int, ...]:
        side = self.pipeline.default_sample_size // 2
        grid = self.grid((side, side), 2 * self.pipeline.vae_scale_factor)
        return self.pipeline.transformer.config.in_channels, *grid

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.noise_shape[1:]
        scale = 2 * self.pipeline.vae_scale_factor
        return height * scale, width * scale

    @cached_property
    def codec(self) -> "Normed":
        return Normed(self.pipeline.vae, self.pipeline)

    # ------------------------------------------------------------------ maps and rows

    def latents_of(self, seen: Arguments) -> Latents:
        return self.raw(seen[self.latents_argument])

    def arguments(self, latents: Latents, time: Times, conditioning: Conditioning) -> Arguments:
        rows = self.pipeline._pack_latents(latents)
        return super().arguments(latents, time, conditioning) | {self.latents_argument: rows}

    def raw(self, output: Any) -> Latents:
        return output.mT.unflatten(2, self.noise_shape[1:])

    def finished(self, output: Any) -> Latents:
        return self.raw(output)

    # ------------------------------------------------------------------ texts

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        return self._read(texts, default(self.pipeline, "max_sequence_length"))

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        limit = default(self.pipeline, "max_sequence_length")
        return (self._read(texts, limit + 1).sum(1) > limit).cpu()

    def _read(self, texts: Sequence[str], limit: int) -> Bool[Tensor, "texts limit"]:
        """Which rows are no padding, as the pipeline tells its language model; none is run."""
        told: list[Arguments] = []

        def before(arguments: Arguments) -> None:
            told.append(arguments)
            raise Ended

        with watched({"text_encoder": self.pipeline.text_encoder}, before), suppress(Ended):
            self.pipeline.encode_prompt(list(texts), max_sequence_length=limit)
        return told[0]["attention_mask"].bool()


class Flux2Klein(Flux2):
    """With rows that have no prompt in calls of their own, unless it is distilled."""

    kind = "Flux.2 Klein"
    pipelines = ("Flux2KleinPipeline",)
    siblings = ("Flux2KleinInpaintPipeline",)
    own = ()
    embedded = False

    @property
    def takes_guidance(self) -> bool:
        return self.guidance is not None and not self.pipeline.config.is_distilled

    def finished(self, output: Any) -> Latents:
        return self.codec.normalised(output.float())  # so that decoding undoes it to the bit


class Flux2KleinKV(Flux2Klein):
    """Remembers reference images; without any it is a distilled Klein."""

    kind = "Flux.2 Klein KV"
    pipelines = ("Flux2KleinKVPipeline",)
    siblings = ()
    guidance = None


class Normed(Scaled):
    """Squares of four as channels, each by the mean and variance of the VAE's batch norm."""

    def __init__(self, vae: Any, pipeline: Any):
        super().__init__(vae)
        self.pipeline = pipeline

    def normalised(self, raw: Maps) -> Tensor:
        mean, deviation = self._moments(raw)
        return (self.pipeline._patchify_latents(raw) - mean) / deviation

    def restored(self, latents: Maps) -> Tensor:
        mean, deviation = self._moments(latents)
        return self.pipeline._unpatchify_latents(latents * deviation + mean)

    def _moments(self, like: Maps) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        variance = norm.running_var + self.vae.config.batch_norm_eps
        mean, deviation = (t.to(like)[:, None, None] for t in (norm.running_mean, variance.sqrt()))
        return mean, deviation
