"""A tiny, untrained Stable Diffusion pipeline: the real classes at the smallest sizes."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.support.planted import memorized_set, reference_set  # noqa: F401  fixtures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", help="a real device for tests/kernels and tests/devices")


WORDS = ("a", "b", "c", "cat", "dog", "on", "red", "blue", "background")


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """Six feed-forwards of 128 neurons each, in all three parts of a UNet."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()


def tiny_tokenizer() -> CLIPTokenizer:
    """Knows the letters, and a few words whole."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(f"{w}</w>" for w in WORDS)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12)


@pytest.fixture(scope="session")
def _tiny_parts() -> dict:
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(text).eval(), "vae": vae.eval()}


@pytest.fixture
def tiny_pipeline(_tiny_parts: dict) -> StableDiffusionPipeline:
    """A fresh pipeline: a test may change any part of it."""
    pipeline = StableDiffusionPipeline(
        **deepcopy(_tiny_parts),
        unet=tiny_unet(),
        scheduler=DDIMScheduler(
            clip_sample=False,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def tiny_folder(tiny_pipeline: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """The tiny pipeline, saved."""
    folder = tmp_path / "tiny"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def prompt_files(tmp_path: Path) -> tuple[Path, Path]:
    """Two prompt lists that share nothing."""
    files = []
    for name, texts in (("memorized", ["a cat", "a dog"]), ("reference", ["red b", "blue c", "c"])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        files.append(path)
    return files[0], files[1]
