"""Kolors: Stable Diffusion XL's UNet told by ChatGLM, its last hidden row pooled."""

from inspect import signature
from typing import Any

from memfast.pipelines.drivers.alpha_bar.sdxl import StableDiffusionXL


class Kolors(StableDiffusionXL):
    """Text is padded on its left to one length, whatever the batch. Needs sentencepiece."""

    kind = "Kolors"
    pipelines = ("KolorsPipeline",)
    siblings = ("KolorsImg2ImgPipeline",)
    needs = ("vae", "tokenizer", "text_encoder", "scheduler")

    def readers(self) -> list[tuple[Any, int]]:
        call = signature(type(self.pipeline).__call__).parameters
        return [(self.pipeline.tokenizer, call["max_sequence_length"].default)]
