"""Kolors: Stable Diffusion XL's UNet told by ChatGLM, its last hidden row pooled."""

from functools import cached_property

from memfast.pipelines.drivers.alpha_bar.sdxl import StableDiffusionXL
from memfast.pipelines.drivers.calls import default
from memfast.pipelines.drivers.reading import Reader


class Kolors(StableDiffusionXL):
    """Text is padded on its left to one length, whatever the batch. Needs sentencepiece."""

    kind = "Kolors"
    clip_attention = False
    pipelines = ("KolorsPipeline",)
    siblings = ("KolorsImg2ImgPipeline",)
    needs = ("vae", "tokenizer", "text_encoder", "scheduler")

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        return (Reader(self.pipeline.tokenizer, default(self.pipeline, "max_sequence_length")),)
