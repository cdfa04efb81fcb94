"""Stable Diffusion 3 and 3.5: two CLIPs and, where it is there, T5."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.reading import Reader


class StableDiffusion3(Driver):
    """Text rows: those of both CLIPs, channel by channel, then T5's, which are zeros without T5.

    All are padded to their limits and attended to without a mask: no prompt depends on its batch.
    The last block has no feed-forward for text.
    """

    kind = "Stable Diffusion 3"
    pipelines = ("StableDiffusion3Pipeline",)
    siblings = (
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "StableDiffusion3PAGPipeline",
        "StableDiffusion3PAGImg2ImgPipeline",
    )
    needs = ("vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "scheduler")
    leaves = ("encoder_hidden_states", "pooled_projections")
    searched = leaves
    streams: ClassVar[Mapping[str, str]] = {"ff_context": "text"}

    def check(self) -> None:
        super().check()
        transformer = self.pipeline.transformer
        self.check_channels(transformer.config.in_channels, transformer.out_channels)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        pipeline, limit = self.pipeline, self.pipeline.tokenizer_max_length
        clips = (Reader(pipeline.tokenizer, limit), Reader(pipeline.tokenizer_2, limit))
        if pipeline.text_encoder_3 is None:
            return clips
        return (*clips, Reader(pipeline.tokenizer_3, default(pipeline, "max_sequence_length")))

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        tokens = seen["encoder_hidden_states"]
        first, second, *third = [reader.rows(texts) for reader in self.readers]
        rows = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        for read, start in ((first | second, 0), *((t5, first.shape[1]) for t5 in third)):
            rows[:, start : start + read.shape[1]] = read
        return rows.to(tokens.device)
