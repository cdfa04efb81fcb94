"""PixArt-α and PixArt-Σ: T5 and its mask, a transformer with a learned sigma."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from diffusers.utils import is_bs4_available, is_ftfy_available
from jaxtyping import Bool
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.drivers.reading import Reader
from memfast.pipelines.schedule import Schedule


class PixArt(Driver):
    """Text is padded to a fixed length and masked in attention; none passes a feed-forward.

    The transformer's own size is its own bin: binning resolutions is turned off, which changes
    nothing but that a VAE or a size without a table of bins does as well.
    """

    kind = "PixArt"
    pipelines = ("PixArtSigmaPipeline", "PixArtAlphaPipeline")
    leaves = ("encoder_hidden_states", "encoder_attention_mask")
    own = ("added_cond_kwargs.resolution", "added_cond_kwargs.aspect_ratio")
    cleans = is_bs4_available() and is_ftfy_available()  # else the pipeline warns at every run

    def call(self, prompts: int, schedule: Schedule) -> Arguments:
        own = {"use_resolution_binning": False, "clean_caption": self.cleans}
        return super().call(prompts, schedule) | own

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        return super().truncated(self.pipeline._text_preprocessing(list(texts), self.cleans))

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        return (Reader(self.pipeline.tokenizer, default(self.pipeline, "max_sequence_length")),)

    def raw(self, output: Any) -> Latents:
        config = self.pipeline.transformer.config
        learned = config.out_channels == 2 * config.in_channels
        return output.chunk(2, dim=1)[0] if learned else output
