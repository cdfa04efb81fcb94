"""Z-Image: a Qwen chat's embeddings as a list, time runs from noise at 0, the output is negated."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from memfast.pipelines.drivers.calls import LENGTHS, Arguments, default
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents, Times
from memfast.pipelines.drivers.reading import Reader

PROMPTS = "cap_feats"
MULTIPLE = 32  # both streams are filled with a learned token to a multiple of it


class ZImage(Driver):
    """Guidance is prompt + scale · (prompt - none), so that none is a scale of 0, not 1.

    Each prompt is read at its own length. The filling is the model's own padding: attention sees
    it, whatever the batch; it is neither text nor image, and not counted.
    """

    kind = "Z-Image"
    pipelines = ("ZImagePipeline",)
    siblings = (
        "ZImageImg2ImgPipeline",
        "ZImageInpaintPipeline",
        "ZImageControlNetPipeline",
        "ZImageControlNetInpaintPipeline",
    )
    latents_argument = "x"
    time_argument = "t"
    leaves = (PROMPTS, PROMPTS + LENGTHS)
    searched = (PROMPTS,)
    halves = (CONDITIONAL, UNCONDITIONAL)
    off = 0.0
    streams: ClassVar = {"context_refiner": "text", "layers": "image+text"}

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        chats = [
            self.pipeline.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            for text in texts
        ]
        limit = default(self.pipeline, "max_sequence_length")
        return Reader(self.pipeline.tokenizer, limit).truncates(chats)

    def latents_of(self, seen: Arguments) -> Latents:
        return seen["x"].squeeze(2)

    def arguments(self, latents: Latents, time: Times, conditioning: Conditioning) -> Arguments:
        told = super().arguments(latents, time, conditioning)
        return {**told, "x": list(latents.unsqueeze(2))}

    def model_time(self, times: Float[Tensor, " rows"]) -> Tensor:
        return (1000 - times) / 1000

    def raw(self, output: list[Tensor]) -> Latents:
        return -torch.stack(output).squeeze(2)

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        places = torch.arange(seen[PROMPTS].shape[1])
        return (places < seen[PROMPTS + LENGTHS][:, None]).to(self.device)

    @cached_property
    def image_rows(self) -> Bool[Tensor, " rows"]:
        """An image's own rows, and its filling."""
        height, width = self.latent_shape[1:]
        own = torch.ones((height // 2) * (width // 2), dtype=torch.bool, device=self.device)
        return F.pad(own, (0, -len(own) % MULTIPLE))

    def padded(self, path: str) -> bool:
        return super().padded(path) or not self.image_rows.all()

    def counted(
        self,
        path: str,
        text_rows: Bool[Tensor, "images tokens"] | None,
        length: int,
        run: int = 0,
    ) -> Bool[Tensor, "images rows"] | None:
        if text_rows is None:
            return None
        image = self.image_rows.expand(len(text_rows), -1)
        parts = {"image": [image], "text": [text_rows], "image+text": [image, text_rows]}
        found = torch.cat(parts[self.stream(path)], 1)
        return F.pad(found, (0, length - found.shape[1]))
