"""Flux.1: dev is told its guidance, schnell takes none; both may have true guidance beside it."""

from collections.abc import Sequence
from functools import cached_property

from jaxtyping import Bool
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.packed import Packed
from memfast.pipelines.drivers.reading import Reader


class Flux(Packed):
    """Text rows are T5's; CLIP's pooled vector goes beside the time.

    All are padded to their limits and attended to without a mask: no prompt depends on its batch.
    """

    kind = "Flux.1"
    pipelines = ("FluxPipeline",)
    siblings = (
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxKontextPipeline",
        "FluxKontextInpaintPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxFillPipeline",
    )
    needs = ("vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "scheduler")
    leaves = ("encoder_hidden_states", "pooled_projections")
    searched = leaves
    own = ("guidance",)
    embedded = True
    true_guidance = "true_cfg_scale"

    @property
    def takes_guidance(self) -> bool:
        return self.pipeline.transformer.config.guidance_embeds

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        pipeline = self.pipeline
        return (
            Reader(pipeline.tokenizer, pipeline.tokenizer_max_length),
            Reader(pipeline.tokenizer_2, default(pipeline, "max_sequence_length")),
        )

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        return self.readers[1].rows(texts).to(seen["encoder_hidden_states"].device)
