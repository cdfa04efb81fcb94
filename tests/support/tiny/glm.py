"""Tiny pipelines of CogView 4: GLM, whose tokenizer pads on the left and begins with two tokens."""

from typing import Any

import diffusers
import tokenizers
import transformers

from tests.support.tiny.parts import CHARACTERS, WIDTH, kl, vocabulary

BEGIN = ("[gMASK]", "<sop>")


def glm_tokenizer() -> Any:
    known = vocabulary("<pad>", "<unk>", *BEGIN, " ", *CHARACTERS)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex("."), behavior="isolated"
    )
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*BEGIN, "$A"], special_tokens=[(token, known[token]) for token in BEGIN]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", padding_side="left"
    )


def cogview4(dynamic: bool = True, channels: int = 4, kind: str = "CogView4") -> Any:
    tokenizer = glm_tokenizer()
    return getattr(diffusers, f"{kind}Pipeline")(
        transformer=diffusers.CogView4Transformer2DModel(
            in_channels=channels,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=WIDTH,
            time_embed_dim=8,
            condition_dim=4,
            sample_size=16,
        ),
        vae=kl(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            base_shift=0.25,
            max_shift=0.75,
            shift=1.0 if dynamic else 3.0,
            use_dynamic_shifting=dynamic,
            time_shift_type="linear",
        ),
        text_encoder=transformers.GlmModel(
            transformers.GlmConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                max_position_embeddings=1100,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=1,
            )
        ),
        tokenizer=tokenizer,
    )
