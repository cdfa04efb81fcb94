"""Sana: Gemma under an instruction, mixing convolutions, latents of a deep autoencoder."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.schedule import Schedule

PIXELS = 32  # a side, to each latent of `sample_size`, by the pipeline's own table of resolutions


class Sana(Driver):
    """The image's rows alone pass its feed-forwards; text is padded to one length and masked.

    The pipeline's own size is 1024 pixels a side whatever the model, of which it makes the model's
    by its table and resizes the pictures; here they stay as they are.
    """

    kind = "Sana"
    pipelines = ("SanaPipeline",)
    siblings = ("SanaControlNetPipeline",)
    leaves = ("encoder_hidden_states", "encoder_attention_mask")

    def call(self, prompts: int, schedule: Schedule) -> Arguments:
        side = PIXELS * self.pipeline.transformer.config.sample_size
        own = {"height": side, "width": side, "use_resolution_binning": False}
        return own | super().call(prompts, schedule)

    def model_time(self, times: Tensor) -> Tensor:
        return times * self.pipeline.transformer.config.timestep_scale

    def raw(self, output: Any) -> Latents:
        return output[:, : self.pipeline.transformer.config.in_channels]  # else learned sigmas

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        tokenizer = self.pipeline.tokenizer
        limit = default(self.pipeline, "max_sequence_length")
        instruction = "\n".join(default(self.pipeline, "complex_human_instruction") or ())
        if instruction:
            limit += len(tokenizer.encode(instruction)) - 2
        read = [instruction + text.lower().strip() for text in texts]
        ids = tokenizer(read, verbose=False).input_ids
        return torch.tensor([len(tokens) > limit for tokens in ids], dtype=torch.bool)
