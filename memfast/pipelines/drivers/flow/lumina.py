"""Lumina-Next and Lumina 2: Gemma, time runs from noise at 0, the output points at the image."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.drivers.reading import Reader


class Lumina(Driver):
    """What both share: rows with the prompt come first."""

    halves = (CONDITIONAL, UNCONDITIONAL)
    corrects = True

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        limit = default(self.pipeline, "max_sequence_length")
        return Reader(self.pipeline.tokenizer, limit).truncates(texts)

    def model_time(self, times: Float[Tensor, " rows"]) -> Tensor:
        return 1 - times / self.path.training_steps

    def raw(self, output: Latents) -> Latents:
        return -output


class LuminaNext(Lumina):
    """Cross-attention: the feed-forwards see the image alone; times carry the prompt too.

    Prompts are padded to the longest of a batch, and masked: an image does not depend on it.
    """

    kind = "Lumina-Next"
    pipelines = ("LuminaPipeline",)
    leaves = ("encoder_hidden_states", "encoder_mask")

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        return super().truncated(self.pipeline._text_preprocessing(list(texts), clean_caption=True))

    def corrected(self, guided: Latents, conditional: Latents) -> Latents:
        """Three channels alone are guided."""
        return torch.cat([guided[:, :3], conditional[:, 3:]], 1)

    def raw(self, output: Latents) -> Latents:
        """The second half of the channels is a learned sigma, of no use here."""
        return super().raw(output.chunk(2, 1)[0])


class Lumina2(Lumina):
    """Guidance's rows are two calls, the prompt's first; without a prompt, no system prompt."""

    kind = "Lumina 2"
    pipelines = ("Lumina2Pipeline",)
    leaves = ("encoder_hidden_states", "encoder_attention_mask")
    together = False
    streams: ClassVar = {"context_refiner": "text", "layers": "text+image"}

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        start = f"{self.pipeline.system_prompt} <Prompt Start> "
        return super().truncated([start + text for text in texts])

    def corrected(self, guided: Latents, conditional: Latents) -> Latents:
        return guided * conditional.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        return seen["encoder_attention_mask"].bool()

    def counted(
        self,
        path: str,
        text_rows: Bool[Tensor, "images tokens"] | None,
        length: int,
        run: int = 0,
    ) -> Bool[Tensor, "images rows"] | None:
        """Where both streams join, an image follows its own text, and padding comes last."""
        if text_rows is None or self.stream(path) != "text+image":
            return super().counted(path, text_rows, length, run)
        height, width = self.latent_shape[1:]
        patch = self.pipeline.transformer.config.patch_size
        own = text_rows.sum(1) + (height // patch) * (width // patch)
        return torch.arange(length, device=own.device) < own[:, None]
