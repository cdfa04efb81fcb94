"""Z-Image: a Qwen chat's embeddings as a list, time runs from noise at 0, the output is negated."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from memfast.pipelines.drivers.calls import LENGTHS, Arguments
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents, Times

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
    reads = 512
    streams: ClassVar = {"context_refiner": "text", "layers": "image+text"}

    def templated(self, text: str) -> str:
        return self.pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )

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

    def counted(
        self, path: str, text_rows: Bool[Tensor, "images tokens"] | None, length: int
    ) -> Bool[Tensor, "images rows"] | None:
        if text_rows is None:
            return None
        stream, height, width = self.stream(path), *self.latent_shape[1:]
        own = text_rows.new_ones(len(text_rows), (height // 2) * (width // 2))
        image = F.pad(own, (0, -own.shape[1] % MULTIPLE))
        parts = {"image": [image], "text": [text_rows], "image+text": [image, text_rows]}
        found = torch.cat(parts[stream], 1)
        return F.pad(found, (0, length - found.shape[1]))
