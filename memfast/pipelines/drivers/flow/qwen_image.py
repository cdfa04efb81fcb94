"""Qwen-Image: two streams, packed latents, a VAE for video; true guidance."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.codecs import Images, Scaled
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.drivers.reading import Reader
from memfast.pipelines.schedule import Schedule, own_schedule

MASK = "encoder_hidden_states_mask"
WITHOUT = " "  # the negative prompt of the model's own examples


class QwenImage(Driver):
    """Its default scale does nothing without a negative prompt: its own guidance is none.

    Prompts are padded to the longest of a batch, and masked: an image does not depend on it.
    Latents are [images, tokens, channels]; as maps they have one frame.
    """

    kind = "Qwen-Image"
    pipelines = ("QwenImagePipeline",)
    siblings = (
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
        "QwenImageControlNetPipeline",
        "QwenImageControlNetInpaintPipeline",
    )
    leaves = ("encoder_hidden_states", MASK)
    halves = (CONDITIONAL, UNCONDITIONAL)
    together = False
    guidance = "true_cfg_scale"
    corrects = True
    streams: ClassVar = {"txt_mlp": "text"}

    @property
    def defaults(self) -> dict[str, Any]:
        return own_schedule(self.pipeline, None)

    def call(self, prompts: int, schedule: Schedule) -> Arguments:
        without = {"negative_prompt": [WITHOUT] * prompts} if self.guided(schedule) else {}
        return super().call(prompts, schedule) | without

    def corrected(self, guided: Latents, conditional: Latents) -> Latents:
        return guided * conditional.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        template = self.pipeline.prompt_template_encode
        dropped = self.pipeline.prompt_template_encode_start_idx
        limit = dropped + default(self.pipeline, "max_sequence_length")
        written = [template.format(text) for text in texts]
        return Reader(self.pipeline.tokenizer, limit).truncates(written)

    def conditioning(self, texts: Sequence[str], seen: Arguments) -> Conditioning:
        """With a mask also where the pipeline has none as nothing is padded."""
        shapes = seen["img_shapes"][:1]  # the model reads the first, as all are the same
        mask = self.text_rows(texts, seen).long()
        return super().conditioning(texts, {**seen, MASK: mask, "img_shapes": shapes})

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        embeddings, mask = seen["encoder_hidden_states"], seen.get(MASK)
        own = embeddings.new_ones(embeddings.shape[:2]) if mask is None else mask
        return own.bool()

    def model_time(self, times: Float[Tensor, " rows"]) -> Tensor:
        return times.to(self.dtype) / 1000

    @property
    def noise_shape(self) -> tuple[int, ...]:
        side = self.pipeline.default_sample_size // 2
        rows, columns = self.grid((side, side), 2 * self.pipeline.vae_scale_factor)
        return self.pipeline.transformer.config.in_channels // 4, 1, 2 * rows, 2 * columns

    def pack(self, maps: Tensor) -> Latents:
        images, channels, _, height, width = maps.shape
        return self.pipeline._pack_latents(maps.contiguous(), images, channels, height, width)

    def unpack(self, latents: Latents) -> Tensor:
        return self.pipeline._unpack_latents(latents, *self.size, self.pipeline.vae_scale_factor)

    @cached_property
    def codec(self) -> "OneFrame":
        return OneFrame(self.pipeline.vae)


class OneFrame(Scaled):
    """Images as videos of one frame."""

    def encode(self, images: Images) -> Tensor:
        return super().encode(images.unsqueeze(2))

    def decode(self, latents: Tensor) -> Images:
        return super().decode(latents)[:, :, 0]
