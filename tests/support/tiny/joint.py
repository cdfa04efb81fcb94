"""Tiny pipelines of transformers in which text and image attend to each other."""

import warnings
from typing import Any

import diffusers
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from tests.support.tiny.parts import WIDTH, clip, clip_tokenizer, kl, t5, t5_tokenizer, vocabulary

SHIFTED = {
    "shift_factor": 0.06,
    "scaling_factor": 1.5,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": False,  # slow at 128 x 128 latents
}
SIDE = 8  # of Flux's latents, which a pipeline fixes at 128


def euler(shift: float = 3.0, **rest: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, **rest)


def dpm_solver() -> Any:
    return diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


def sd3(t5_too: bool = True, dual: tuple[int, ...] = (), scheduler: Any = None) -> Any:
    first, second, third = clip_tokenizer(), clip_tokenizer(), t5_tokenizer(256)
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=32,
            pos_embed_max_size=16,
            dual_attention_layers=dual,
            qk_norm="rms_norm" if dual else None,
        ),
        vae=kl(**SHIFTED),
        scheduler=scheduler or euler(),
        text_encoder=clip(first, projects=True, width=16),
        tokenizer=first,
        text_encoder_2=clip(second, projects=True, width=16),
        tokenizer_2=second,
        text_encoder_3=t5(third) if t5_too else None,
        tokenizer_3=third if t5_too else None,
    )


def small(pipeline: Any) -> Any:
    """The same, with small pictures of its own."""
    pipeline.default_sample_size = SIDE
    return pipeline


def flux(guidance: bool, scheduler: Any = None) -> Any:
    first, second = clip_tokenizer(), t5_tokenizer()
    return small(
        diffusers.FluxPipeline(
            transformer=diffusers.FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=1,
                joint_attention_dim=WIDTH,
                pooled_projection_dim=WIDTH,
                axes_dims_rope=(4, 4, 8),
                guidance_embeds=guidance,
            ),
            vae=kl(**SHIFTED),
            scheduler=scheduler or euler(use_dynamic_shifting=guidance),
            text_encoder=clip(first),
            tokenizer=first,
            text_encoder_2=t5(second),
            tokenizer_2=second,
        )
    )


def chroma() -> Any:
    tokenizer = t5_tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of diffusers to itself
        transformer = diffusers.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=1,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        )
    return small(
        diffusers.ChromaPipeline(
            transformer=transformer,
            vae=kl(**SHIFTED),
            scheduler=euler(1.0),
            text_encoder=t5(tokenizer),
            tokenizer=tokenizer,
        )
    )


# ------------------------------------------------------------------ Flux.2

LANGUAGE = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "head_dim": 4,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


def flux2(guidance: bool = True) -> Any:
    tokenizer = bytes_tokenizer("left")
    text = transformers.MistralConfig(vocab_size=len(tokenizer), num_hidden_layers=30, **LANGUAGE)
    vision = transformers.PixtralVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=3
    )
    return small(
        diffusers.Flux2Pipeline(
            text_encoder=transformers.Mistral3ForConditionalGeneration(config),
            tokenizer=tokenizer,
            **flux2_parts(guidance),
        )
    )


def klein(kind: str = "Flux2KleinPipeline", **rest: Any) -> Any:
    tokenizer = bytes_tokenizer("right")
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=27, **LANGUAGE)
    return small(
        getattr(diffusers, kind)(
            text_encoder=transformers.Qwen3ForCausalLM(config),
            tokenizer=tokenizer,
            **flux2_parts(False),
            **rest,
        )
    )


def flux2_parts(guidance: bool) -> dict[str, Any]:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        mid_block_add_attention=False,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return {
        "vae": vae,
        "transformer": diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=1,
            joint_attention_dim=3 * LANGUAGE["hidden_size"],
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance,
        ),
        "scheduler": euler(use_dynamic_shifting=True),
    }


def bytes_tokenizer(padding: str) -> Any:
    """A byte is a token; chats, with contents that are texts or lists of them, as templates do."""
    ends = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary(*ends, *sorted(ByteLevel.alphabet())), merges=[], padding_side=padding
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if m.content is string else m.content[0].text }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer
