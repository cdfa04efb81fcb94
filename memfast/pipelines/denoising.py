"""A pipeline's denoiser as plain tensors: encode, add noise, predict, judge, generate.

For what needs its own loop (detection probes, attacks, repair, losses). Written for pipelines with
`StableDiffusionPipeline`'s parts: a UNet, one text encoder, a VAE.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BatchEncoding

from memfast.errors import InputError
from memfast.pipelines.noise import generator

Latents = Float[Tensor, "images channels latent_height latent_width"]
Images = Float[Tensor, "images 3 height width"]
Embeddings = Float[Tensor, "images tokens features"]
Schedule = Mapping[str, Any]  # num_inference_steps and guidance_scale
Timesteps = int | Tensor  # the scheduler's own values: one, or one per image


class Denoiser:
    """Plain-tensor access to one pipeline's parts; changes none of them.

    Raises InputError for a pipeline that is not built as StableDiffusionPipeline is.
    """

    def __init__(self, pipeline: DiffusionPipeline):
        needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        missing = [part for part in needed if getattr(pipeline, part, None) is None]
        if missing or getattr(pipeline, "text_encoder_2", None) is not None:
            raise InputError(
                f"{type(pipeline).__name__} is not built as StableDiffusionPipeline is "
                f"(one text encoder; missing: {', '.join(missing) or 'nothing'})"
            )
        self.pipeline = pipeline
        self.model = pipeline.unet
        self.vae = pipeline.vae
        self.scheduler = pipeline.scheduler
        self.device = pipeline.unet.device
        self.dtype = pipeline.unet.dtype

    @property
    def training_steps(self) -> int:
        """The scheduler's number of training timesteps."""
        return self.scheduler.config.num_train_timesteps

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Text embeddings, as the pipeline computes them (truncated at the tokenizer's limit)."""
        return self.embed(self.tokens(texts))

    def tokens(self, texts: Sequence[str]) -> BatchEncoding:
        """What `embed` takes, on the CPU: input_ids and attention_mask [texts, tokenizer's limit].

        The pipeline's own encoding splits every text into tokens three times.
        """
        tokenizer, texts = self.pipeline.tokenizer, list(texts)
        if any(token.endswith("_1") for token in tokenizer.get_added_vocab()):
            texts = self.pipeline.maybe_convert_prompt(texts, tokenizer)  # textual inversions
        return tokenizer(
            texts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )

    @torch.no_grad()
    def embed(self, tokens: Mapping[str, Tensor]) -> Embeddings:
        """The embeddings of `tokens`."""
        encoder = self.pipeline.text_encoder
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens["attention_mask"].to(self.device) if masked else None
        ids = tokens["input_ids"].to(self.device)
        return encoder(ids, attention_mask=mask)[0].to(encoder.dtype)

    def initial_noise(self, ids: Sequence[str], seed: int) -> Latents:
        """The latents that generation starts from: one image's depend on its id and seed alone."""
        side = self.model.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        shape = (self.model.config.in_channels, height, width)
        noise = torch.stack([torch.randn(shape, generator=generator(i, seed)) for i in ids])
        return noise.to(self.device, self.dtype)

    def predict(self, latents: Latents, timestep: Timesteps, embeddings: Embeddings) -> Latents:
        """The denoiser's raw output, in the scheduler's prediction type. Differentiable.

        latents: variance preserving, as `add_noise` makes them, whatever the scheduler; Euler's
        and its kin are those divided by sqrt(alpha-bar), and only they need scaling.
        """
        return self.model(latents, timestep, encoder_hidden_states=embeddings).sample

    def epsilon(self, output: Latents, latents: Latents, timestep: Timesteps) -> Latents:
        """The noise that an output of `predict` stands for."""
        alpha, sigma = self._alpha_sigma(timestep)
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return output
            case "v_prediction":
                return alpha * output + sigma * latents
            case _:
                return (latents - alpha * output) / sigma

    def clean(self, output: Latents, latents: Latents, timestep: Timesteps) -> Latents:
        """The clean latents that an output of `predict` stands for."""
        alpha, sigma = self._alpha_sigma(timestep)
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return (latents - sigma * output) / alpha
            case "v_prediction":
                return alpha * latents - sigma * output
            case _:
                return output

    def add_noise(self, clean: Latents, noise: Latents, timestep: Timesteps) -> Latents:
        """alpha · clean + sigma · noise at `timestep`."""
        alpha, sigma = self._alpha_sigma(timestep)
        return alpha * clean + sigma * noise

    def target(self, clean: Latents, noise: Latents, timestep: Timesteps) -> Latents:
        """What `predict` should have returned."""
        alpha, sigma = self._alpha_sigma(timestep)
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return noise
            case "v_prediction":
                return alpha * noise - sigma * clean
            case _:
                return clean

    def loss(
        self, clean: Latents, embeddings: Embeddings, noise: Latents, timestep: Timesteps
    ) -> Float[Tensor, " images"]:
        """Mean squared error of the prediction, per image. Differentiable."""
        output = self.predict(self.add_noise(clean, noise, timestep), timestep, embeddings)
        return (output - self.target(clean, noise, timestep)).square().flatten(1).mean(1)

    @torch.no_grad()
    def encode_images(self, images: Images) -> Latents:
        """Scaled latents (the posterior's mean) of images in [0, 1]."""
        latents = self.vae.encode(2 * images.to(self.device, self.dtype) - 1).latent_dist.mean
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Images in [0, 1] of scaled latents."""
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def generate(
        self,
        embeddings: Embeddings,
        ids: Sequence[str],
        seed: int,
        *,
        num_inference_steps: int,
        guidance_scale: float,
        batch_size: int = 48,
    ) -> Images:
        """Images in [0, 1] from the pipeline's own scheduler, with classifier-free guidance."""
        unconditional = self.encode([""])
        images = []
        for start in range(0, len(ids), batch_size):
            part = slice(start, start + batch_size)
            latents, _ = self.pipeline(  # pyright: ignore[reportCallIssue]
                prompt_embeds=embeddings[part],
                negative_prompt_embeds=unconditional.expand_as(embeddings[part]),
                latents=self.initial_noise(ids[part], seed),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                output_type="latent",
                return_dict=False,
            )
            images.append(self.decode(latents))
        return torch.cat(images)

    def _alpha_sigma(self, timestep: Timesteps) -> tuple[Tensor, Tensor]:
        """sqrt(alpha-bar) and sqrt(1 - alpha-bar), shaped to scale latents."""
        products = self.scheduler.alphas_cumprod.to(self.device, torch.float32)
        product = products[torch.as_tensor(timestep, device=self.device)].reshape(-1, 1, 1, 1)
        return product.sqrt().to(self.dtype), (1 - product).sqrt().to(self.dtype)


def with_model(denoiser: Denoiser, model: nn.Module) -> Denoiser:
    """The same pipeline around another denoising model; the given one stays as it is."""
    pipeline = copy(denoiser.pipeline)
    pipeline.unet = model
    return Denoiser(pipeline)
