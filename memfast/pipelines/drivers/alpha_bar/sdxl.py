"""Stable Diffusion XL (Base, Turbo, LCM): two CLIPs, a pooled vector, sizes, a UNet."""

from functools import cached_property

from memfast.errors import InputError
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import UNetDriver
from memfast.pipelines.drivers.reading import Reader


class StableDiffusionXL(UNetDriver):
    """The first CLIP may be absent, as in diffusers. No text passes a feed-forward."""

    kind = "Stable Diffusion XL"
    clip_attention = True
    pipelines = ("StableDiffusionXLPipeline",)
    siblings = (
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        "StableDiffusionXLAdapterPipeline",
    )
    needs = ("vae", "tokenizer_2", "text_encoder_2", "scheduler")
    leaves = ("encoder_hidden_states", "added_cond_kwargs.text_embeds")
    searched = leaves
    own = ("added_cond_kwargs.time_ids", "timestep_cond")

    def check(self) -> None:
        super().check()
        if self.owner.config.get("requires_aesthetics_score"):
            raise InputError(
                f"{type(self.owner).__name__}: a refiner paints over another model's images and "
                "makes none from text alone; give the base model"
            )

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        both = (self.pipeline.tokenizer, self.pipeline.tokenizer_2)
        return tuple(Reader(tokenizer) for tokenizer in both if tokenizer is not None)
