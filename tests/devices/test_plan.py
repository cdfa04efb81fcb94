"""The plan: from configs alone, near the count at its own batch, within what cards have."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from memfast.cli.finding.plan import parse_bytes
from memfast.errors import InputError
from memfast.planning.parts import Parts, parts_of
from memfast.planning.plan import COMMANDS, counted, plan

GB = 10**9
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
CLIP_G |= {"projection_dim": 1280, "num_attention_heads": 20}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64}
T5_XXL |= {"vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "force_upcast": True}
VAE |= {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SD1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX = {"in_channels": 64, "num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}
SD35 = {"sample_size": 128, "in_channels": 16, "num_layers": 38, "num_attention_heads": 38}
SD35 |= {"attention_head_dim": 64, "caption_projection_dim": 2432, "joint_attention_dim": 4096}
SD35 |= {"pooled_projection_dim": 2048, "pos_embed_max_size": 192, "qk_norm": "rms_norm"}
MODELS: dict[str, dict[str, tuple[str, str, dict[str, Any]]]] = {
    "StableDiffusionPipeline": {
        "unet": ("diffusers", "UNet2DConditionModel", SD1),
        "vae": ("diffusers", "AutoencoderKL", VAE),
        "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
    },
    "StableDiffusionXLPipeline": {
        "unet": ("diffusers", "UNet2DConditionModel", SDXL),
        "vae": ("diffusers", "AutoencoderKL", VAE),
        "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", CLIP_G),
    },
    "FluxPipeline": {
        "transformer": ("diffusers", "FluxTransformer2DModel", FLUX),
        "vae": ("diffusers", "AutoencoderKL", VAE | {"latent_channels": 16}),
        "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
        "text_encoder_2": ("transformers", "T5EncoderModel", T5_XXL),
    },
    "StableDiffusion3Pipeline": {
        "transformer": ("diffusers", "SD3Transformer2DModel", SD35),
        "vae": ("diffusers", "AutoencoderKL", VAE | {"latent_channels": 16}),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection", CLIP_L),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", CLIP_G),
        "text_encoder_3": ("transformers", "T5EncoderModel", T5_XXL),
    },
}
MILLIONS = {  # of the released models, all components
    "StableDiffusionPipeline": 1066,
    "StableDiffusionXLPipeline": 3469,
    "FluxPipeline": 16871,
    "StableDiffusion3Pipeline": 13800,
}
REST = [pytest.param(name, marks=pytest.mark.kinds) for name in list(MODELS)[1:]]


def written(folder: Path, name: str) -> Parts:
    """A folder of configs, without any weights."""
    index: dict[str, Any] = {"_class_name": name}
    for part, (library, kind, config) in MODELS[name].items():
        index[part] = [library, kind]
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config | {"_class_name": kind}))
    (folder / "model_index.json").write_text(json.dumps(index))
    return parts_of(folder)


@pytest.mark.parametrize("name", list(MODELS))
def test_values_are_those_of_the_released_models(tmp_path: Path, name: str) -> None:
    parts = written(tmp_path, name)
    assert sum(parts.values.values()) / 1e6 == pytest.approx(MILLIONS[name], rel=0.02)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", *REST])
def test_the_plan_is_near_the_count(tmp_path: Path, name: str) -> None:
    """Rows are counted at two; the plan's figure at its batch is that of a count there."""
    parts = written(tmp_path, name)
    found = plan(parts, "collect", torch.bfloat16, 80 * GB)
    exact = found.weights + counted(parts, torch.bfloat16, found.batch).bytes
    assert found.bytes == pytest.approx(exact, rel=0.1)
    assert found.batch > 1


@pytest.mark.kinds
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "repair"])
def test_every_command_fits(tmp_path: Path, name: str, command: str) -> None:
    """On 80 GB; Stable Diffusion on 8 GB, and SDXL on 16 GB."""
    memory = {"StableDiffusionPipeline": 8, "StableDiffusionXLPipeline": 16}.get(name, 80) * GB
    found = plan(written(tmp_path, name), command, torch.bfloat16, memory)
    assert found.batch >= 1
    assert found.bytes <= memory


@pytest.mark.kinds
@pytest.mark.parametrize("name", list(MODELS)[:2])
def test_repair_fits_on_80_gb(tmp_path: Path, name: str) -> None:
    found = plan(written(tmp_path, name), "repair", torch.bfloat16, 80 * GB)
    assert found.batch >= 1
    assert found.bytes <= 80 * GB


def test_less_memory_makes_smaller_batches(tmp_path: Path) -> None:
    parts = written(tmp_path, "StableDiffusionPipeline")
    small, large = (plan(parts, "collect", torch.bfloat16, size * GB) for size in (4, 80))
    assert 1 <= small.batch < large.batch
    assert small.row == large.row
    none = plan(parts, "collect", torch.float32, 4 * GB)
    assert none.batch == 0


@pytest.mark.parametrize(("text", "size"), [("24GB", 24 * GB), ("512 m", 512 * 10**6), ("7", 7)])
def test_memory_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_bad_words_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--memory much: must be a number with a unit"):
        parse_bytes("much")
    with pytest.raises(InputError, match="COMMAND dance: must be one of collect, locate"):
        plan(written(tmp_path, "StableDiffusionPipeline"), "dance", torch.float32, GB)
