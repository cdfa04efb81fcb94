"""Tiny pipelines told by a language model: Gemma, Qwen or UMT5."""

from typing import Any

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from tests.support.tiny.parts import CHARACTERS, WIDTH, kl, t5, t5_tokenizer, vocabulary

LAYERS = {
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_IMAGE_SYSTEM = (  # with the characters before it, the 34 tokens that Qwen-Image drops
    "e by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)


def gemma_tokenizer() -> Any:
    specials = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    vocab = vocabulary(*specials, "▁", *CHARACTERS)
    return transformers.GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True)


def qwen_tokenizer() -> Any:
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    made = transformers.Qwen2Tokenizer(
        vocab=vocabulary(*specials, *sorted(ByteLevel.alphabet())), merges=[]
    )
    made.add_special_tokens({"additional_special_tokens": [*specials[1:], QWEN_IMAGE_SYSTEM]})
    made.chat_template = CHAT
    return made


def gemma(tokenizer: Any, version: str = "2") -> Any:
    config = getattr(transformers, f"Gemma{version}Config")(
        vocab_size=len(tokenizer),
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        **LAYERS,
    )
    return getattr(transformers, f"Gemma{version}Model")(config)


def lumina_next(scheduler: str = "FlowMatchEulerDiscreteScheduler") -> Any:
    tokenizer = gemma_tokenizer()
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=16,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    return diffusers.LuminaPipeline(
        transformer=started(transformer),
        vae=kl(levels=4),
        text_encoder=gemma(tokenizer, ""),
        tokenizer=tokenizer,
        scheduler=getattr(diffusers, scheduler)(),
    )


def lumina2(scheduler: Any = None) -> Any:
    tokenizer = gemma_tokenizer()
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=16,
            in_channels=4,
            hidden_size=24,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=2,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 32, 32),
            cap_feat_dim=WIDTH,
        ),
        vae=kl(levels=4, shift_factor=0.1),
        text_encoder=gemma(tokenizer),
        tokenizer=tokenizer,
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def lumina2_unipc() -> Any:
    return lumina2(
        diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, use_dynamic_shifting=True
        )
    )


def z_image(levels: int = 7, **scheduler: Any) -> Any:
    """At 1024 pixels; 8 levels of the VAE leave 16 image tokens, which are filled to 32."""
    tokenizer = qwen_tokenizer()
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[600, 32, 32],
    )
    return diffusers.ZImagePipeline(
        transformer=started(transformer),
        vae=narrow(levels, shift_factor=0.1),
        text_encoder=transformers.Qwen3Model(
            transformers.Qwen3Config(vocab_size=len(tokenizer), head_dim=8, **LAYERS)
        ),
        tokenizer=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
    )


def qwen_image(side: int = 16, **scheduler: Any) -> Any:
    tokenizer = qwen_tokenizer()
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "bos_token_id": 0,
            "eos_token_id": 0,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            **LAYERS,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    made = diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[-0.1, 0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
    )
    made.default_sample_size = side  # 128 for those who load it from a folder
    return made


def aura_flow() -> Any:
    tokenizer = t5_tokenizer()
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=16,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pos_embed_max_size=100,
    )
    return diffusers.AuraFlowPipeline(
        transformer=started(transformer, gain=2),  # ten of 264 rows say little else
        vae=narrow(7),
        text_encoder=t5(tokenizer, "UMT5"),
        tokenizer=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


def narrow(levels: int, **rest: Any) -> Any:
    """A VAE for pictures of 1024 pixels: each level but the first halves both sides.

    It decodes one at a time: over a batch, torch's GroupNorm is off by 0.005 at this size.
    """
    made = diffusers.AutoencoderKL(
        block_out_channels=(2,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=0,
        norm_num_groups=1,
        latent_channels=4,
        **rest,
    )
    made.enable_slicing()
    return made


def started(model: Any, gain: float = 1) -> Any:
    """The model with something in place of gates and tokens that start at zero or at anything."""
    for name, parameter in model.named_parameters():
        if name.endswith("pad_token") or not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
        parameter.data *= gain
    return model
