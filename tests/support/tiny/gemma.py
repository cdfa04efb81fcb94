"""Tiny pipelines of Sana: Gemma, a deep autoencoder, mixing convolutions."""

from typing import Any

import diffusers
import transformers

from tests.support.tiny.parts import CHARACTERS, WIDTH, vocabulary

LEVELS = 6  # of the autoencoder: 32 pixels a side are one latent


def sana(scheduler: str = "dpm", side: int = 16, out: int = 4, kind: str = "Sana", **rest: Any):
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n")
    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary(*special, *CHARACTERS), merges=[])
    schedulers: dict[str, Any] = {
        "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        "dpm": diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }
    return getattr(diffusers, f"{kind}Pipeline")(
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=out,
            num_layers=2,
            sample_size=side,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            timestep_scale=1.0 if scheduler == "dpm" else 0.001,
        ),
        vae=autoencoder(),
        scheduler=schedulers[scheduler],
        text_encoder=transformers.Gemma2Model(
            transformers.Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=40,
                head_dim=8,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                pad_token_id=tokenizer.pad_token_id,
            )
        ),
        tokenizer=tokenizer,
        **rest,
    )


def autoencoder() -> Any:
    blocks = ("ResBlock",) * (LEVELS - 1) + ("EfficientViTBlock",)
    scales = ((),) * (LEVELS - 1) + ((5,),)
    return diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        scaling_factor=0.4,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(4,) * LEVELS,
        decoder_block_out_channels=(4,) * LEVELS,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        encoder_layers_per_block=(1,) * LEVELS,
        decoder_layers_per_block=(1,) * LEVELS,
    )
