"""A model's folder: numbers in it, whole, of this machine nothing but the weights."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from memfast.errors import InputError
from memfast.pipelines.loading import load_pipeline
from memfast.pipelines.opening.naming import shown_name
from memfast.pipelines.saving import save_pipeline


def spoil(pipeline: StableDiffusionPipeline, part: str, value: float) -> str:
    """The name of a parameter, one number of which is now `value`."""
    name, parameter = list(getattr(pipeline, part).named_parameters())[-1]
    with torch.no_grad():
        parameter.view(-1)[-1] = value
    return name


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_models_enter_and_leave_as_numbers(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path, part: str, value: float
) -> None:
    name = spoil(tiny_pipeline, part, value)
    says = f"{part}: {name} holds numbers that are not finite"
    with pytest.raises(InputError, match=f"nothing is saved: {says}"):
        save_pipeline(tiny_pipeline, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    tiny_pipeline.save_pretrained(tmp_path / "theirs")
    with pytest.raises(InputError, match=f"MODEL .*theirs: {says}"):
        load_pipeline(tmp_path / "theirs")


def test_a_saved_folder_names_no_place(tiny_folder: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(tiny_folder)
    pipeline.unet.register_to_config(_name_or_path="someone/model")
    save_pipeline(pipeline, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(), path
    config = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())
    assert config["_name_or_path"] == "someone/model"
    again = load_pipeline(tmp_path / "out")
    for name, value in pipeline.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], value), name


def test_only_a_folder_of_ours_is_replaced(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "theirs")
    with pytest.raises(InputError, match="was not made by memfast"):
        save_pipeline(tiny_pipeline, tmp_path / "theirs", overwrite=True)
    save_pipeline(tiny_pipeline, tmp_path / "ours")
    save_pipeline(tiny_pipeline, tmp_path / "ours", overwrite=True)
    (tmp_path / "ours" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds mine\.txt, which memfast did not write"):
        save_pipeline(tiny_pipeline, tmp_path / "ours", overwrite=True)


def test_what_models_are_called_in_public(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert shown_name(str(tmp_path / "model")) == shown_name("model") == "model"
    assert shown_name("../" + tmp_path.name + "/model/") == "model"
    assert shown_name("someone/model") == "someone/model"
