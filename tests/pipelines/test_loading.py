"""Loading: what a user may name, and one line for what cannot be one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memfast import InputError, load_pipeline


def test_the_only_variant_of_a_folder_is_found(tiny_pipeline: Any, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    loaded = load_pipeline(tmp_path / "half")
    expected = dict(tiny_pipeline.unet.named_parameters())
    for name, value in loaded.unet.named_parameters():
        assert torch.equal(value, expected[name])


def broken(folder: Path, what: str) -> Path:
    """The folder, or what takes its place, with one thing wrong."""
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    index = folder / "model_index.json"
    match what:
        case "missing weight":
            tensors = load_file(unet)
            del tensors["conv_out.weight"]
            save_file(tensors, unet)
        case "cut weights":
            unet.write_bytes(unet.read_bytes()[:1000])
        case "no weights":
            unet.unlink()
        case "unknown class":
            index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "Nope"}))
        case "empty index":
            index.write_text("{}")
        case "index that is no text":
            index.write_bytes(b"\xff\xfe\x00")
        case "index that is deep":
            index.write_text("[" * 100_000)
        case "unknown component":
            changed = json.loads(index.read_text()) | {"unet": ["diffusers", "Nope"]}
            index.write_text(json.dumps(changed))
        case "denoiser alone":
            return folder / "unet"
        case "no folder":
            return folder.with_name("tinny")
        case "a pickle":
            (folder / "model.ckpt").write_bytes(b"")
            return folder / "model.ckpt"
        case "another file":
            return index
        case "foreign tensors":
            save_file({"a": torch.zeros(2)}, folder / "a.safetensors")
            return folder / "a.safetensors"
        case "odd shapes":
            save_file(
                {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)},
                folder / "b.safetensors",
            )
            return folder / "b.safetensors"
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("what", "says"),
    {
        "missing weight": "unet lacks 1 of its weights, the first conv_out.weight",
        "cut weights": "cannot be loaded",
        "no weights": "cannot be loaded",
        "unknown class": "names the pipeline 'Nope'",
        "empty index": "names the pipeline None",
        "index that is no text": "names the pipeline None",
        "index that is deep": "names the pipeline None",
        "unknown component": "cannot be loaded",
        "denoiser alone": "UNet2DConditionModel alone",
        "no folder": "there is tiny",
        "a pickle": "is a pickle",
        "another file": "not a pipeline's folder",
        "foreign tensors": "first tensor is a",
        "odd shapes": "MODEL",
    }.items(),
)
def test_a_damaged_model_is_one_line(tiny_folder: Path, what: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        load_pipeline(broken(tiny_folder, what))
    assert "\n" not in str(raised.value)
