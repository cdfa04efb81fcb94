"""Tiny pipelines of the kinds that are trained on noise by alpha-bar, but Stable Diffusion."""

from typing import Any

import diffusers

from tests.support.tiny.parts import (
    ALPHA_BAR,
    WIDTH,
    bert,
    bert_tokenizer,
    clip,
    clip_tokenizer,
    kl,
    t5,
    t5_tokenizer,
)

SIZES = 8  # the width of each of SDXL's six sizes
LIGHT: dict[str, Any] = {"width": 4, "mid_block_add_attention": False}  # for large pictures


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


def pixart(
    generation: str, scheduler: str, side: int, learned: bool = True, levels: int = 4
) -> Any:
    """side: of the latents; the transformer is told sizes where it is 128. learned: a sigma too."""
    tokenizer = t5_tokenizer()
    return getattr(diffusers, f"PixArt{generation}Pipeline")(
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=side,
            patch_size=max(side // 8, 1),
            num_layers=2,
            num_attention_heads=3,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8 if learned else 4,
            cross_attention_dim=24,
            caption_channels=WIDTH,
        ),
        vae=kl(levels=levels, **LIGHT),
        text_encoder=t5(tokenizer),
        tokenizer=tokenizer,
        scheduler=getattr(diffusers, scheduler)(),
    )


def hunyuan_dit(told_sizes: bool = True) -> Any:
    first, second = bert_tokenizer(), t5_tokenizer(256)
    return diffusers.HunyuanDiTPipeline(
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=128,
            patch_size=16,
            num_layers=4,
            num_attention_heads=3,
            attention_head_dim=8,
            in_channels=4,
            hidden_size=24,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=WIDTH,
            pooled_projection_dim=16,
            use_style_cond_and_image_meta_size=told_sizes,
        ),
        vae=kl(levels=4, **LIGHT),
        text_encoder=bert(first),
        tokenizer=first,
        text_encoder_2=t5(second),
        tokenizer_2=second,
        scheduler=diffusers.DDPMScheduler(prediction_type="v_prediction", **ALPHA_BAR),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
