"""Tiny pipelines with a UNet."""

from typing import Any

import diffusers

from tests.support.tiny.parts import ALPHA_BAR, WIDTH, clip, clip_tokenizer, kl


def stable_diffusion(prediction: str, **unet: Any) -> Any:
    tokenizer = clip_tokenizer()
    return diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
            **unet,
        ),
        vae=kl(),
        text_encoder=clip(tokenizer),
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(
            prediction_type=prediction, clip_sample=False, **ALPHA_BAR
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def latent_consistency() -> Any:
    parts = stable_diffusion("epsilon", time_cond_proj_dim=16).components
    parts["scheduler"] = diffusers.LCMScheduler(**ALPHA_BAR)
    return diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
