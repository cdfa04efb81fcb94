"""Stock pipelines around an untrained denoiser and the embedded model's other parts.

The text encoders, tokenizer and autoencoder are the embedded model's: they may have seen captions
and glyphs that a further model holds out. Its denoiser has not.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPModel, CLIPTextModelWithProjection

from memfast.demo.build.measure import GUIDANCE, INFERENCE_STEPS
from memfast.demo.build.nets.denoiser import build_denoiser, build_scheduler
from memfast.pipelines.loading import load_pipeline
from memfast.pipelines.opening.naming import DEMO
from memfast.pipelines.schedule import Schedule, remember

CLIP = DEMO.parent / "clip"
TEXT = 128  # numbers a token
Config = Mapping[str, Any]


def seeded(seed: int, build: Callable[[], DiffusionPipeline]) -> DiffusionPipeline:
    """Returns what `build` makes after `seed`, its own schedule that of the embedded model."""
    torch.manual_seed(seed)
    pipeline = build()
    remember(pipeline, Schedule(INFERENCE_STEPS, GUIDANCE))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unet(denoiser: Config, **kind: Any) -> UNet2DConditionModel:
    """Returns the embedded model's UNet, but for what is given."""
    return UNet2DConditionModel(**_config(build_denoiser()) | kind | dict(denoiser))


def alpha_bar(scheduler: Config) -> Any:
    """Returns the embedded model's scheduler, but for what is given."""
    plain = build_scheduler()
    return type(plain)(**_config(plain) | dict(scheduler))


def stable_diffusion(denoiser: Config, scheduler: Config) -> DiffusionPipeline:
    """Returns one in the shape of Stable Diffusion 1."""
    demo: Any = load_pipeline("demo")
    return StableDiffusionPipeline(
        vae=demo.vae,
        text_encoder=demo.text_encoder,
        tokenizer=demo.tokenizer,
        unet=unet(denoiser),
        scheduler=alpha_bar(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(denoiser: Config, scheduler: Config) -> DiffusionPipeline:
    """Returns one in the shape of Stable Diffusion XL: tokens of two encoders side by side, one
    pooled vector, sizes."""
    demo: Any = load_pipeline("demo")
    shape = {
        "cross_attention_dim": 2 * TEXT,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": TEXT + 6 * 32,
    }
    return StableDiffusionXLPipeline(
        vae=demo.vae,
        text_encoder=demo.text_encoder,
        tokenizer=demo.tokenizer,
        text_encoder_2=projecting(),
        tokenizer_2=demo.tokenizer,
        unet=unet(denoiser, **shape),
        scheduler=alpha_bar(scheduler),
        add_watermarker=False,
    )


def stable_diffusion_3(denoiser: Config, scheduler: Config) -> DiffusionPipeline:
    """Returns one in the shape of Stable Diffusion 3 without T5: a transformer in which text and
    image attend to each other, rectified flow."""
    demo: Any = load_pipeline("demo")
    shape = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 6,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "caption_projection_dim": 128,
        "joint_attention_dim": 2 * TEXT,
        "pooled_projection_dim": 2 * TEXT,
        "pos_embed_max_size": 16,
    }
    transformer = SD3Transformer2DModel(**shape | dict(denoiser))
    start_as_identity(transformer)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 1.0} | dict(scheduler)),
        vae=demo.vae,
        text_encoder=projecting(),
        tokenizer=demo.tokenizer,
        text_encoder_2=projecting(),
        tokenizer_2=demo.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def projecting() -> CLIPTextModelWithProjection:
    """Returns the embedded CLIP's text tower with its projection."""
    whole = CLIPModel.from_pretrained(CLIP, dtype=torch.float32)
    config = copy.deepcopy(whole.config.text_config)
    config.projection_dim = whole.config.projection_dim
    text = CLIPTextModelWithProjection(config)
    text.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("text_")})
    return text.eval()


def start_as_identity(transformer: SD3Transformer2DModel) -> None:
    """Zeros modulation and output, so that every block starts as the identity (DiT, arXiv
    2212.09748): diffusers itself leaves them random."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (".norm1" in name or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def _config(part: Any) -> dict[str, Any]:
    """What a part was made with."""
    return {name: value for name, value in part.config.items() if not name.startswith("_")}
