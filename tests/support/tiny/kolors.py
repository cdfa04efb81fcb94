"""A tiny Kolors: a tokenizer that is trained on the spot, a ChatGLM of two layers."""

import atexit
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import diffusers
import pytest
import torch

from tests.support.tiny.alpha_bar import sdxl_unet
from tests.support.tiny.parts import ALPHA_BAR, CHARACTERS, WIDTH, kl


def kolors() -> Any:
    """KolorsPipeline; skips the test where sentencepiece is not installed."""
    pytest.importorskip("sentencepiece")
    tokenizer = chatglm_tokenizer()
    return diffusers.KolorsPipeline(
        unet=sdxl_unet(24, WIDTH, encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj"),
        vae=kl(force_upcast=True),
        text_encoder=chatglm(tokenizer),
        tokenizer=tokenizer,
        scheduler=diffusers.EulerDiscreteScheduler(**ALPHA_BAR, timestep_spacing="leading"),
    )


def chatglm_tokenizer() -> Any:
    from diffusers.pipelines.kolors import ChatGLMTokenizer

    return ChatGLMTokenizer(str(vocabulary_file()))


@cache
def vocabulary_file() -> Path:
    """A file that saving the tokenizer copies: it lasts as long as Python runs."""
    from sentencepiece import SentencePieceTrainer

    folder = mkdtemp()
    atexit.register(rmtree, folder)
    with open(Path(folder, "tokenizer.model"), "wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(CHARACTERS),
            model_writer=file,
            model_type="char",
            vocab_size=len(CHARACTERS) + 4,
            minloglevel=2,
        )
    return Path(file.name)


def chatglm(tokenizer: Any) -> Any:
    from diffusers.pipelines.kolors import ChatGLMModel
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=tokenizer.vocab_size,
        hidden_size=WIDTH,
        ffn_hidden_size=40,
        kv_channels=8,
        num_attention_heads=4,
        multi_query_attention=True,
        multi_query_group_num=2,
        add_qkv_bias=True,
        original_rope=True,
    )
    encoder = ChatGLMModel(config, empty_init=False)
    for parameter in encoder.parameters():  # which it leaves as they were in memory
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder
