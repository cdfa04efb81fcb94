"""Tiny pipelines that make videos."""

from typing import Any

import diffusers

from memfast.pipelines.schedule import KEY
from tests.support.tiny.parts import WIDTH, t5, t5_tokenizer


def wan(
    boundary: float | None = None,
    frames: int | None = None,
    expand_timesteps: bool = False,
    scheduler: str = "euler",
    **rest: Any,
) -> Any:
    """boundary: with two transformers. frames: other than the pipeline's own 81, which take a VAE
    of any width ten seconds."""
    tokenizer = t5_tokenizer()
    patch = (1, 2, 2) if expand_timesteps else (1, 5, 13)
    schedulers: dict[str, Any] = {
        "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        "unipc": diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }
    pipeline = diffusers.WanPipeline(
        transformer=transformer(patch, **rest),
        transformer_2=None if boundary is None else transformer(patch, ffn_dim=56),
        vae=vae(1 if expand_timesteps else 2),
        scheduler=schedulers[scheduler],
        text_encoder=t5(tokenizer, "UMT5"),
        tokenizer=tokenizer,
        boundary_ratio=boundary,
        expand_timesteps=expand_timesteps,
    )
    if frames is not None:
        pipeline.scheduler.register_to_config(**{KEY: {"num_frames": frames}})
    return pipeline


def sibling(kind: str, **rest: Any) -> Any:
    """Another pipeline around the parts of one that makes videos of text alone."""
    own = wan(**rest)
    names = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    return getattr(diffusers, kind)(**{name: own.components[name] for name in names})


def transformer(patch: tuple[int, int, int], ffn_dim: int = 40, channels: int = 4) -> Any:
    return diffusers.WanTransformer3DModel(
        patch_size=patch,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=ffn_dim,
        num_layers=2,
        rope_max_seq_len=64,
    )


def vae(levels: int, pixels: int = 8) -> Any:
    """A latent stands for 2 ** levels of the frames and, a side, of patches of pixels."""
    return diffusers.AutoencoderKLWan(
        base_dim=2,
        z_dim=4,
        dim_mult=[1] * (levels + 1),
        num_res_blocks=1,
        temperal_downsample=[True] * levels,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.1, 2.0],
        in_channels=3 * pixels**2,
        out_channels=3 * pixels**2,
        patch_size=pixels,
        scale_factor_spatial=2**levels * pixels,
        scale_factor_temporal=2**levels,
    )
