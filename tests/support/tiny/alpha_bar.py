"""Tiny pipelines of the kinds that are trained on noise by alpha-bar, but Stable Diffusion."""

from typing import Any

import diffusers

from tests.support.tiny.parts import ALPHA_BAR, WIDTH, clip, clip_tokenizer, kl

SIZES = 8  # the width of each of SDXL's six sizes


def sdxl_unet(context: int, pooled: int, **rest: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZES,
        projection_class_embeddings_input_dim=6 * SIZES + pooled,
        norm_num_groups=8,
        **rest,
    )


def sdxl(scheduler: str, one_clip: bool = False, zeros: bool = True, **unet: Any) -> Any:
    """one_clip: the first tokenizer and encoder are absent. zeros: stand for no prompt."""
    first, second = clip_tokenizer(), clip_tokenizer()
    spacing = {} if scheduler in ("LCMScheduler",) else {"timestep_spacing": "trailing"}
    return diffusers.StableDiffusionXLPipeline(
        unet=sdxl_unet(WIDTH if one_clip else 2 * WIDTH, WIDTH, **unet),
        vae=kl(force_upcast=True),
        text_encoder=None if one_clip else clip(first),
        tokenizer=None if one_clip else first,
        text_encoder_2=clip(second, projects=True),
        tokenizer_2=second,
        scheduler=getattr(diffusers, scheduler)(**ALPHA_BAR, **spacing),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
