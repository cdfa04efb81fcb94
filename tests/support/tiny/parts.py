"""Tiny random parts of pipelines, of the real classes; a token is a character."""

import string
from typing import Any

import diffusers
import transformers

CHARACTERS = string.ascii_letters + string.digits + string.punctuation
WIDTH = 32  # of every text encoder
ALPHA_BAR = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def vocabulary(*tokens: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def clip_tokenizer(limit: int = 77) -> Any:
    ends = [f"{character}</w>" for character in CHARACTERS]
    known = vocabulary(*CHARACTERS, *ends, "<|startoftext|>", "<|endoftext|>")
    return transformers.CLIPTokenizer(vocab=known, merges=[], model_max_length=limit)


def t5_tokenizer(limit: int = 512) -> Any:
    pieces = [(piece, -1.0) for piece in ("<pad>", "</s>", "<unk>", "▁", *CHARACTERS)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=limit)


def bert_tokenizer(limit: int = 77) -> Any:
    marks = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    known = vocabulary(*marks, *CHARACTERS, *(f"##{character}" for character in CHARACTERS))
    return transformers.BertTokenizer(vocab=known, model_max_length=limit)


def clip(tokenizer: Any, projects: bool = False, width: int = WIDTH) -> Any:
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=40,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def t5(tokenizer: Any, family: str = "T5") -> Any:
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_ff=40,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        feed_forward_proj="gated-gelu",
    )
    return getattr(transformers, f"{family}EncoderModel")(config)


def bert(tokenizer: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
    )
    return transformers.BertModel(config)


def kl(latents: int = 4, levels: int = 2, width: int = 8, **rest: Any) -> Any:
    """Each level but the first halves both sides of a picture."""
    return diffusers.AutoencoderKL(
        block_out_channels=(width,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latents,
        sample_size=16,
        **rest,
    )
