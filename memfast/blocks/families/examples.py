"""A model for every entry of the table: how the released one is configured, and a tiny one.

Tests run on the tiny ones; `memfast families` lists the sizes of the released ones. diffusers and
transformers are imported when a model is built. The file is long because it is one table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from memfast.blocks.families import inputs as make
from memfast.blocks.families.inputs import Inputs

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}


@dataclass(frozen=True)
class Example:
    """`released` and `tiny` are arguments of the class (of `config`, for a transformers class).

    `inputs(config, size, tokens)` makes the arguments of a forward pass; `size` and `tokens` are
    those of the released model at its usual resolution.
    """

    model: str
    tiny: Mapping[str, Any]
    inputs: Callable[[Any, int, int], Inputs]
    released: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "GELU (tanh)"
    size: int = 64
    tokens: int = 512
    config: str | None = None


_UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
_SD2 = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
_SDXL_CONDITION = {"addition_embed_type": "text_time", "use_linear_projection": True}
_SDXL = _SDXL_CONDITION | {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SD3 = {"sample_size": 8, "num_layers": 3, "joint_attention_dim": 24, "caption_projection_dim": 32}
_ROPE = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)}
_FLUX = _ROPE | {"in_channels": 4, "num_layers": 1, "num_single_layers": 2}
_CLIP = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "vocab_size": 99}
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_T5 = {"d_model": 32, "d_ff": 72, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 99}
_T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}

EXAMPLES: dict[str, Example] = {
    "SD 1.4": Example(
        "UNet2DConditionModel", _UNET, make.unet, {"cross_attention_dim": 768}, "GEGLU", 64, 77
    ),
    "SD 2.1": Example(
        "UNet2DConditionModel",
        _UNET | {"use_linear_projection": True},
        make.unet,
        _SD2 | {"cross_attention_dim": 1024},
        "GEGLU",
        96,
        77,
    ),
    "SDXL": Example(
        "UNet2DConditionModel",
        _UNET
        | _SDXL_CONDITION
        | {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}
        | {"transformer_layers_per_block": (2, 1)},
        make.unet,
        _SDXL,
        "GEGLU",
        128,
        77,
    ),
    "SVD": Example(
        "UNetSpatioTemporalConditionModel",
        {
            "sample_size": 8,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "cross_attention_dim": 24,
            "num_attention_heads": (2, 4),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24,
            "num_frames": 2,
        },
        make.svd,
        activation="GEGLU",
        size=72,
    ),
    "SD 3 medium": Example(
        "SD3Transformer2DModel",
        _SD3 | {**HEADS, "in_channels": 4, "out_channels": 4, "pooled_projection_dim": 24},
        make.sd3,
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
        | {"pos_embed_max_size": 192},
        size=128,
        tokens=333,
    ),
    "SD 3.5 large": Example(
        "SD3Transformer2DModel",
        _SD3
        | {**HEADS, "in_channels": 4, "out_channels": 4, "pooled_projection_dim": 24}
        | {"qk_norm": "rms_norm", "dual_attention_layers": (0,)},
        make.sd3,
        {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432}
        | {"pos_embed_max_size": 192, "qk_norm": "rms_norm"},
        size=128,
        tokens=333,
    ),
    "PixArt-Σ": Example(
        "PixArtTransformer2DModel",
        HEADS
        | {"sample_size": 8, "num_layers": 2, "cross_attention_dim": 32}
        | {"caption_channels": 24, "use_additional_conditions": False},
        make.pixart,
        {"caption_channels": 4096, "use_additional_conditions": False},
        size=128,
        tokens=300,
    ),
    "DiT-XL": Example(
        "DiTTransformer2DModel",
        HEADS | {"sample_size": 8, "num_layers": 2, "norm_num_groups": 8},
        make.dit,
        size=32,
    ),
    "HunyuanDiT": Example(
        "HunyuanDiT2DModel",
        HEADS
        | {"in_channels": 4, "patch_size": 2, "sample_size": 8, "hidden_size": 32, "num_layers": 4}
        | {"cross_attention_dim": 24, "cross_attention_dim_t5": 24, "pooled_projection_dim": 16}
        | {"text_len": 3, "text_len_t5": 4},
        make.hunyuan_dit,
        {"in_channels": 4, "patch_size": 2, "sample_size": 128, "hidden_size": 1408}
        | {"num_layers": 40, "mlp_ratio": 4.3637},
        size=128,
    ),
    "Qwen-Image": Example(
        "QwenImageTransformer2DModel",
        _ROPE | {"in_channels": 16, "out_channels": 4, "num_layers": 2, "joint_attention_dim": 24},
        make.qwen,
    ),
    "Wan 2.1 14B": Example(
        "WanTransformer3DModel",
        HEADS
        | {"in_channels": 4, "out_channels": 4, "text_dim": 24, "freq_dim": 16, "ffn_dim": 72}
        | {"num_layers": 2, "rope_max_seq_len": 32},
        make.video("text_dim"),
    ),
    "CogVideoX 5B": Example(
        "CogVideoXTransformer3DModel",
        HEADS
        | {"in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 24}
        | {"num_layers": 2, "sample_width": 8, "sample_height": 8, "sample_frames": 5}
        | {"max_text_seq_length": 6},
        make.cogvideox,
        {"num_attention_heads": 48, "num_layers": 42, "sample_frames": 5}
        | {"sample_width": 64, "sample_height": 64},
    ),
    "LTX": Example(
        "LTXVideoTransformer3DModel",
        HEADS
        | {"in_channels": 8, "out_channels": 8, "cross_attention_dim": 32, "num_layers": 2}
        | {"caption_channels": 24},
        make.ltx,
        size=24,
        tokens=128,
    ),
    "Mochi": Example(
        "MochiTransformer3DModel",
        HEADS
        | {"num_layers": 2, "pooled_projection_dim": 16, "in_channels": 4, "text_embed_dim": 24}
        | {"time_embed_dim": 8, "max_sequence_length": 16},
        make.masked_video,
        activation="SwiGLU",
        tokens=256,
    ),
    "Stable Audio": Example(
        "StableAudioDiTModel",
        HEADS
        | {"sample_size": 64, "in_channels": 4, "out_channels": 4, "num_layers": 2}
        | {"num_key_value_attention_heads": 1, "cross_attention_dim": 32, "time_proj_dim": 16}
        | {"global_states_input_dim": 24, "cross_attention_input_dim": 24},
        make.stable_audio,
        activation="SwiGLU",
        size=32,
        tokens=130,
    ),
    "Flux.1": Example(
        "FluxTransformer2DModel",
        _FLUX | {"joint_attention_dim": 24, "pooled_projection_dim": 16},
        make.flux,
        {"guidance_embeds": True},
    ),
    "Chroma": Example(
        "ChromaTransformer2DModel",
        _FLUX
        | {"joint_attention_dim": 24, "approximator_num_channels": 16}
        | {"approximator_hidden_dim": 32, "approximator_layers": 1},
        make.flux,
    ),
    "HunyuanVideo": Example(
        "HunyuanVideoTransformer3DModel",
        HEADS
        | {"in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 2}
        | {"num_refiner_layers": 1, "patch_size": 1, "text_embed_dim": 24}
        | {"pooled_projection_dim": 16, "rope_axes_dim": (4, 6, 6)},
        make.hunyuan_video,
        tokens=256,
    ),
    "Flux.2": Example(
        "Flux2Transformer2DModel",
        _FLUX
        | {"axes_dims_rope": (4, 4, 4, 4), "joint_attention_dim": 24}
        | {"timestep_guidance_channels": 16},
        make.flux,
        activation="SwiGLU",
    ),
    "Lumina-Next": Example(
        "LuminaNextDiT2DModel",
        {"sample_size": 8, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2}
        | {"num_kv_heads": 1, "multiple_of": 16, "cross_attention_dim": 24},
        make.lumina,
        {"num_kv_heads": 8},
        activation="SwiGLU",
        size=128,
        tokens=256,
    ),
    "Lumina 2": Example(
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2}
        | {"num_refiner_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2}
        | {"axes_dim_rope": (4, 2, 2), "axes_lens": (32, 32, 32), "cap_feat_dim": 16},
        make.lumina2,
        {"cap_feat_dim": 2304},
        activation="SwiGLU",
        size=128,
        tokens=256,
    ),
    "Z-Image": Example(
        "ZImageTransformer2DModel",
        {"in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2}
        | {"n_kv_heads": 2, "cap_feat_dim": 24, "axes_dims": [4, 6, 6], "axes_lens": [64, 32, 32]},
        make.z_image,
        activation="SwiGLU",
        size=128,
        tokens=256,
    ),
    "AuraFlow": Example(
        "AuraFlowTransformer2DModel",
        HEADS
        | {"sample_size": 8, "num_mmdit_layers": 1, "num_single_dit_layers": 2}
        | {"joint_attention_dim": 24, "caption_projection_dim": 32, "pos_embed_max_size": 16},
        make.auraflow,
        activation="SwiGLU",
        size=128,
        tokens=256,
    ),
    "Sana 1.6B": Example(
        "SanaTransformer2DModel",
        HEADS
        | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "caption_channels": 24}
        | {"num_cross_attention_heads": 2, "cross_attention_head_dim": 16}
        | {"cross_attention_dim": 32, "sample_size": 8},
        make.sana,
        activation="SwiGLU (3×3)",
        size=32,
        tokens=300,
    ),
    "CLIP-L": Example(
        "CLIPTextModel",
        _CLIP | _SPECIAL | {"num_attention_heads": 4, "max_position_embeddings": 16},
        make.token_ids,
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        | {"num_hidden_layers": 12},
        activation="GELU (quick)",
        tokens=77,
        config="CLIPTextConfig",
    ),
    "T5": Example(
        "T5EncoderModel",
        _T5 | {"feed_forward_proj": "relu"},
        make.token_ids,
        _T5_XXL | {"d_ff": 65536, "d_model": 1024, "d_kv": 128, "num_heads": 128},
        activation="ReLU",
        tokens=256,
        config="T5Config",
    ),
    "T5 v1.1 XXL": Example(
        "T5EncoderModel",
        _T5 | {"feed_forward_proj": "gated-gelu"},
        make.token_ids,
        _T5_XXL | {"feed_forward_proj": "gated-gelu"},
        activation="GEGLU (tanh)",
        tokens=256,
        config="T5Config",
    ),
}


def build(example: Example, arguments: Mapping[str, Any]) -> nn.Module:
    """The example's model with these arguments, randomly initialised, in eval mode."""
    if example.config is None:
        import diffusers

        return getattr(diffusers, example.model)(**arguments).eval()
    import transformers

    config = getattr(transformers, example.config)(**arguments)
    return getattr(transformers, example.model)(config).eval()


def tiny(name: str, seed: int = 0) -> nn.Module:
    """The tiny model of an example; one seed gives the same weights every time."""
    torch.manual_seed(seed)
    model = build(EXAMPLES[name], EXAMPLES[name].tiny)
    for path, parameter in model.named_parameters():
        if path.endswith("pad_token"):  # which diffusers leaves uninitialised
            nn.init.normal_(parameter, std=0.02)
    return model


def tiny_inputs(name: str, model: nn.Module, seed: int = 1) -> Inputs:
    """Arguments of a forward pass of an example's tiny model: two images."""
    torch.manual_seed(seed)
    return EXAMPLES[name].inputs(model.config, 8, 5)


def released(name: str) -> nn.Module:
    """The released model's shapes, without storage (meta device)."""
    with torch.device("meta"):
        return build(EXAMPLES[name], EXAMPLES[name].released)
