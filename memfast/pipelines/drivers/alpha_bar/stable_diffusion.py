"""Stable Diffusion 1 and 2: one CLIP, a UNet; epsilon, v or sample prediction."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import BatchEncoding

from memfast.errors import InputError
from memfast.pipelines.drivers.calls import Arguments, run
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents, Times, as_scalar
from memfast.pipelines.schedule import Schedule

EMBEDDINGS = "encoder_hidden_states"


class UNetDriver(Driver):
    """What kinds with a UNet share: the image's rows alone pass its feed-forwards.

    A distilled UNet (arXiv 2210.03142) is told the guidance scale, as `timestep_cond`.
    """

    denoisers = ("unet",)
    latents_argument = "sample"
    own = ("timestep_cond",)

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.embedded = self.pipeline.unet.config.time_cond_proj_dim is not None

    def check(self) -> None:
        super().check()
        takes = self.pipeline.unet.config.in_channels
        gives = self.pipeline.vae.config.latent_channels
        if takes != gives:
            raise InputError(
                f"{type(self.owner).__name__}: its UNet takes {takes} channels, {gives} of them "
                "latents (a mask and a masked image are the rest, as for inpainting); give the "
                "text-to-image model that it was made from"
            )


class StableDiffusion(UNetDriver):
    """Encodes tokens by itself: the pipeline's own run would split every text three times."""

    kind = "Stable Diffusion"
    pipelines = ("StableDiffusionPipeline",)
    siblings = (
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
    )
    enters_by_attention = True
    clip_attention = True

    @cached_property
    def latent_shape(self) -> tuple[int, ...]:
        side = self.pipeline.unet.config.sample_size
        own = (side, side) if isinstance(side, int) else tuple(side)
        channels = self.pipeline.unet.config.in_channels
        return channels, *self.grid(own, self.pipeline.vae_scale_factor)

    def times(self, schedule: Schedule) -> list[int]:
        self.scheduler.set_timesteps(schedule.num_inference_steps)
        return [int(time) for time in self.scheduler.timesteps]

    def encode(self, texts: Sequence[str]) -> Conditioning:
        return self.embed(self.prepare(texts))

    def prepare(self, texts: Sequence[str]) -> "Tokens":
        tokenizer, texts = self.pipeline.tokenizer, list(texts)
        if any(token.endswith("_1") for token in tokenizer.get_added_vocab()):
            texts = self.pipeline.maybe_convert_prompt(texts, tokenizer)  # textual inversions
        return Tokens(
            tokenizer(
                texts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
        )

    @torch.no_grad()
    def embed(self, prepared: "Tokens") -> Conditioning:
        encoder = self.pipeline.text_encoder
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = prepared["attention_mask"].to(self.device) if masked else None
        ids = prepared["input_ids"].to(self.device)
        found = encoder(ids, attention_mask=mask)[0].to(encoder.dtype)
        return Conditioning({EMBEDDINGS: found, **self._told_scale(len(found))}, (EMBEDDINGS,))

    def _told_scale(self, rows: int) -> dict[str, Tensor]:
        if not self.embedded:
            return {}
        scale = torch.full((rows,), self._unguided.guidance_scale - 1)
        width = self.pipeline.unet.config.time_cond_proj_dim
        found = self.pipeline.get_guidance_scale_embedding(scale, embedding_dim=width)
        return {"timestep_cond": found.to(self.device, self.dtype)}

    @cached_property
    def no_prompt(self) -> Conditioning:
        return self.encode([""])

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        tokens = self.prepare(texts)
        longer = tokens["attention_mask"][:, -1] > 0  # else the whole text is there
        found = torch.zeros(len(texts), dtype=torch.bool)
        rows = longer.nonzero().flatten().tolist()
        if rows:
            found[rows] = super().truncated([str(texts[row]) for row in rows])
        return found

    def arguments(self, latents: Latents, time: Times, conditioning: Conditioning) -> Arguments:
        when = as_scalar(time, latents.device)
        return {"sample": latents, "timestep": when, **conditioning.leaves}

    def _sampled(
        self, conditioning: Conditioning, sources: list[torch.Generator], schedule: Schedule
    ) -> Latents:
        embeddings = conditioning.leaves[EMBEDDINGS]
        (latents, *_) = run(
            self.pipeline,
            prompt_embeds=embeddings,
            negative_prompt_embeds=self.no_prompt.leaves[EMBEDDINGS].expand_as(embeddings),
            latents=self.noise_of(sources),
            generator=sources,
            output_type="latent",
            return_dict=False,
            **self.call(len(sources), schedule),
        )
        return latents


class Tokens(dict[str, Tensor]):
    """input_ids and attention_mask [texts, tokenizer's limit], on the CPU, indexed by text too."""

    def __init__(self, tokens: Mapping[str, Tensor] | BatchEncoding):
        super().__init__(tokens)

    def __len__(self) -> int:
        return len(self["input_ids"])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return Tokens({name: tensor[key] for name, tensor in self.items()})
