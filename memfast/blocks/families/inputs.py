"""Random arguments of one forward pass, by kind of model: two images of `size` latents a side.

For sequences, `size`² latents; `tokens` text tokens where the model's config does not fix them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape)


def _step() -> Tensor:
    return torch.tensor([500.0, 20.0])


def unet(config: Any, size: int, tokens: int) -> Inputs:
    inputs: Inputs = {
        "sample": _noise(2, config.in_channels, size, size),
        "timestep": _step(),
        "encoder_hidden_states": _noise(2, tokens, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        conditions = {"text_embeds": _noise(2, pooled), "time_ids": torch.ones(2, 6)}
        inputs["added_cond_kwargs"] = conditions
    return inputs


def svd(config: Any, size: int, tokens: int) -> Inputs:
    return {
        "sample": _noise(2, config.num_frames, config.in_channels, size, size),
        "timestep": _step(),
        "encoder_hidden_states": _noise(2, 1, config.cross_attention_dim),
        "added_time_ids": torch.ones(
            2, config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
        ),
    }


def latents(config: Any, size: int, tokens: int) -> Inputs:
    return {"hidden_states": _noise(2, config.in_channels, size, size), "timestep": _step()}


def dit(config: Any, size: int, tokens: int) -> Inputs:
    return latents(config, size, tokens) | {"class_labels": torch.tensor([1, 2])}


def sd3(config: Any, size: int, tokens: int) -> Inputs:
    return latents(config, size, tokens) | {
        "encoder_hidden_states": _noise(2, tokens, config.joint_attention_dim),
        "pooled_projections": _noise(2, config.pooled_projection_dim),
    }


def pixart(config: Any, size: int, tokens: int) -> Inputs:
    return latents(config, size, tokens) | {
        "encoder_hidden_states": _noise(2, tokens, config.caption_channels),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def sana(config: Any, size: int, tokens: int) -> Inputs:
    text = _noise(2, tokens, config.caption_channels)
    return latents(config, size, tokens) | {"encoder_hidden_states": text}


def hunyuan_dit(config: Any, size: int, tokens: int) -> Inputs:
    side = size // config.patch_size
    return latents(config, size, tokens) | {
        "encoder_hidden_states": _noise(2, config.text_len, config.cross_attention_dim),
        "text_embedding_mask": torch.ones(2, config.text_len),
        "encoder_hidden_states_t5": _noise(2, config.text_len_t5, config.cross_attention_dim_t5),
        "text_embedding_mask_t5": torch.ones(2, config.text_len_t5),
        "image_meta_size": torch.ones(2, 6),
        "style": torch.zeros(2, dtype=torch.long),
        "image_rotary_emb": [_noise(side * side, config.attention_head_dim) for _ in range(2)],
    }


def qwen(config: Any, size: int, tokens: int) -> Inputs:
    return {
        "hidden_states": _noise(2, size * size, config.in_channels),
        "encoder_hidden_states": _noise(2, tokens, config.joint_attention_dim),
        "encoder_hidden_states_mask": torch.ones(2, tokens, dtype=torch.long),
        "timestep": _step(),
        "img_shapes": [[(1, size, size)]] * 2,
    }


def video(width: str) -> Callable[[Any, int, int], Inputs]:
    """Frames as the third axis; `width` is the config's name for the text's."""

    def inputs(config: Any, size: int, tokens: int) -> Inputs:
        return {
            "hidden_states": _noise(2, config.in_channels, 2, size, size),
            "timestep": _step(),
            "encoder_hidden_states": _noise(2, tokens, getattr(config, width)),
        }

    return inputs


def masked_video(config: Any, size: int, tokens: int) -> Inputs:
    mask = torch.ones(2, tokens, dtype=torch.bool)
    return video("text_embed_dim")(config, size, tokens) | {"encoder_attention_mask": mask}


def hunyuan_video(config: Any, size: int, tokens: int) -> Inputs:
    return masked_video(config, size, tokens) | {
        "pooled_projections": _noise(2, config.pooled_projection_dim),
        "guidance": torch.full((2,), 6.0),
    }


def cogvideox(config: Any, size: int, tokens: int) -> Inputs:
    inputs = video("text_embed_dim")(config, size, config.max_text_seq_length)
    return inputs | {"hidden_states": inputs["hidden_states"].transpose(1, 2)}


def ltx(config: Any, size: int, tokens: int) -> Inputs:
    return {
        "hidden_states": _noise(2, 2 * size * size, config.in_channels),
        "encoder_hidden_states": _noise(2, tokens, config.caption_channels),
        "encoder_attention_mask": torch.ones(2, tokens),
        "timestep": _step(),
        "num_frames": 2,
        "height": size,
        "width": size,
    }


def stable_audio(config: Any, size: int, tokens: int) -> Inputs:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    length = size * size
    return {
        "hidden_states": _noise(2, config.in_channels, length),
        "timestep": _step(),
        "encoder_hidden_states": _noise(2, tokens, config.cross_attention_input_dim),
        "global_hidden_states": _noise(2, 1, config.global_states_input_dim),
        "rotary_embedding": get_1d_rotary_pos_embed(
            config.attention_head_dim // 2, length + 1, use_real=True, repeat_interleave_real=False
        ),
    }


def flux(config: Any, size: int, tokens: int) -> Inputs:
    axes = len(config.axes_dims_rope)
    inputs = {
        "hidden_states": _noise(2, size * size, config.in_channels),
        "encoder_hidden_states": _noise(2, tokens, config.joint_attention_dim),
        "timestep": _step() / 1000,
        "img_ids": torch.zeros(size * size, axes),
        "txt_ids": torch.zeros(tokens, axes),
    }
    if hasattr(config, "pooled_projection_dim"):
        inputs["pooled_projections"] = _noise(2, config.pooled_projection_dim)
    if getattr(config, "guidance_embeds", False):
        inputs["guidance"] = torch.full((2,), 3.5)
    return inputs


def lumina(config: Any, size: int, tokens: int) -> Inputs:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    head = config.hidden_size // config.num_attention_heads
    return latents(config, size, tokens) | {
        "timestep": torch.tensor([0.5, 0.2]),
        "encoder_hidden_states": _noise(2, tokens, config.cross_attention_dim),
        "encoder_mask": torch.ones(2, tokens),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(head, 384, 384),
        "cross_attention_kwargs": {},
    }


def lumina2(config: Any, size: int, tokens: int) -> Inputs:
    return latents(config, size, tokens) | {
        "encoder_hidden_states": _noise(2, tokens, config.cap_feat_dim),
        "encoder_attention_mask": torch.ones(2, tokens, dtype=torch.bool),
    }


def z_image(config: Any, size: int, tokens: int) -> Inputs:
    return {
        "x": [_noise(config.in_channels, 1, size, size) for _ in range(2)],
        "t": torch.tensor([0.5, 0.2]),
        "cap_feats": [_noise(tokens, config.cap_feat_dim) for _ in range(2)],
    }


def auraflow(config: Any, size: int, tokens: int) -> Inputs:
    text = _noise(2, tokens, config.joint_attention_dim)
    return latents(config, size, tokens) | {"encoder_hidden_states": text}


def token_ids(config: Any, size: int, tokens: int) -> Inputs:
    return {"input_ids": torch.arange(2 * tokens).view(2, tokens) % (config.vocab_size - 3) + 1}
