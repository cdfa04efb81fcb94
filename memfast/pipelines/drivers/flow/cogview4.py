"""CogView 4: GLM; one feed-forward a block, on the image's rows and again on the text's."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.conditioning import Conditioning, rows_of_each
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents, Shifted, Times
from memfast.pipelines.schedule import Schedule

TEXT = "encoder_hidden_states"
MULTIPLE = 16  # of tokens, that every batch is padded to


class CogView4(Driver):
    """Text is padded on the left to the longest of a run and to a multiple of 16, and neither the
    text encoder nor the denoiser masks it: prompts share a run only where each is read as alone.

    The denoiser is told times that the schedule shifts only in the noise that it adds.
    """

    kind = "CogView 4"
    pipelines = ("CogView4Pipeline",)
    siblings = ("CogView4ControlPipeline",)
    leaves = (TEXT, "original_size", "target_size", "crop_coords")
    halves = (CONDITIONAL, UNCONDITIONAL)
    together = False
    streams: ClassVar = {"ff": "image,text"}

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.path = Shifted(self.scheduler, self._shift)

    def check(self) -> None:
        super().check()
        takes = self.pipeline.transformer.config.in_channels
        self.check_channels(takes, self.pipeline.vae.config.latent_channels)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        config = self.pipeline.transformer.config
        own = (config.sample_size, config.sample_size)
        return config.in_channels, *self.grid(own, self.pipeline.vae_scale_factor)

    @property
    def _shift(self) -> float:
        """How many times the odds of noise, level / (1 - level), are those of time / 1000."""
        from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

        config = self.scheduler.config
        if not config.use_dynamic_shifting:
            return config.shift
        _, height, width = self.latent_shape
        patch = self.pipeline.transformer.config.patch_size
        patches = (height // patch) * (width // patch)
        limits = {"base_image_seq_len": 256, "base_shift": 0.25, "max_shift": 0.75}
        by_length = calculate_shift(patches, *(config.get(k, v) for k, v in limits.items()))
        return 1 / (1 / float(self.scheduler.time_shift(by_length, 1.0, torch.tensor(0.5))) - 1)

    # ------------------------------------------------------------------ texts of unlike lengths

    def _read(self, texts: Sequence[str]) -> Bool[Tensor, "texts tokens"]:
        """Which tokens, of all padded to the longest, are a text's own."""
        found = self.pipeline.tokenizer(
            list(texts),
            padding="longest",
            max_length=default(self.pipeline, "max_sequence_length"),
            truncation=True,
            return_tensors="pt",
        )
        return found.attention_mask.bool()

    def alike(self, texts: Sequence[str]) -> list[Tensor]:
        lengths = self._read(texts).sum(1)
        if self.pipeline.tokenizer.padding_side == "left":  # one kind of padding then, one place
            lengths = (lengths + MULTIPLE - 1) // MULTIPLE
        return rows_of_each(lengths)

    def encode(self, texts: Sequence[str]) -> Conditioning:
        parts = self.alike(texts)
        found = [super(CogView4, self).encode([texts[int(i)] for i in part]) for part in parts]
        return Conditioning.cat(found)[torch.cat(parts).argsort()]

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        own = self._read(texts)
        return F.pad(own, (seen[TEXT].shape[1] - own.shape[1], 0))

    def calls_of(self, time: Times, conditioning: Conditioning) -> Int64[Tensor, " rows"]:
        """How many tokens the pipeline reads each prompt as: up to its last own one."""
        rows: Any = conditioning.text_rows
        return rows.shape[1] - rows.flip(1).long().argmax(1)

    def arguments(self, latents: Latents, time: Times, conditioning: Conditioning) -> Arguments:
        return super().arguments(latents, time, self._trimmed(conditioning))

    def _trimmed(self, conditioning: Conditioning) -> Conditioning:
        """Without the zeros that `cat` appends, of prompts that are equally long."""
        tokens = int(self.calls_of(0, conditioning)[0])
        return conditioning.told({TEXT: conditioning.leaves[TEXT][:, :tokens]})

    def _sampled(
        self, conditioning: Conditioning, sources: list[torch.Generator], schedule: Schedule
    ) -> Latents:
        parts = rows_of_each(self.calls_of(0, conditioning))
        latents = [
            super(CogView4, self)._sampled(
                self._trimmed(conditioning[rows]),
                [sources[int(row)] for row in rows],
                schedule,
            )
            for rows in parts
        ]
        return torch.cat(latents)[torch.cat(parts).argsort()]

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        limit = default(self.pipeline, "max_sequence_length")
        ids = self.pipeline.tokenizer(list(texts), verbose=False).input_ids
        return torch.tensor([len(tokens) > limit for tokens in ids], dtype=torch.bool)
