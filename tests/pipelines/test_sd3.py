"""Stable Diffusion 3: whose rows are whose, with and without T5; siblings."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from memfast.errors import InputError
from memfast.pipelines.drivers.table import as_sibling, driver_of
from memfast.pipelines.loading import load_pipeline
from tests.support.streams import neurons, pictures, sibling
from tests.support.tiny.table import build

TEXTS = ["b", "a red cat"]
CLIP = [3, 9]  # a start, a token for each character that is no space, an end
T5 = [3, 11]  # a token for the beginning, for each character, an end


@pytest.mark.parametrize("name", ["sd3", "sd3-no-t5", "sd35"])
def test_text_rows_are_the_encoders_(name: str) -> None:
    driver = driver_of(build(name))
    rows = driver.encode(TEXTS).text_rows
    assert rows.shape == (2, 77 + 256)
    for own, clip, t5 in zip(rows, CLIP, T5, strict=True):
        assert own[:77].nonzero().flatten().tolist() == list(range(clip))
        read = 0 if name == "sd3-no-t5" else t5
        assert own[77:].nonzero().flatten().tolist() == list(range(read))


def test_one_without_t5_is_saved_and_loaded(tmp_path: Path) -> None:
    made = build("sd3-no-t5")
    made.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    assert loaded.text_encoder_3 is loaded.tokenizer_3 is None
    expected, found = (driver_of(x).encode(TEXTS).leaves for x in (made, loaded))
    assert all(torch.equal(found[name], leaf) for name, leaf in expected.items())


@pytest.mark.parametrize("name", ["sd3", "sd35"])
def test_streams(name: str) -> None:
    driver = driver_of(build(name))
    told = driver.encode(TEXTS)
    seen = neurons(driver, TEXTS)
    assert [path for path in seen if driver.stream(path) == "text"] == [
        "transformer_blocks.0.ff_context",
        "transformer_blocks.1.ff_context",  # the last block has none
    ]
    for path, rows in seen.items():
        counted = driver.counted(path, told.text_rows, rows.shape[1])
        if driver.stream(path) == "image":
            assert counted is None
            assert rows.shape[1] == 16
        else:
            assert torch.equal(counted, told.text_rows)
            assert rows.shape[1] == 77 + 256


def test_a_text_is_read_as_far_as_its_furthest_reader() -> None:
    texts = ["a" * 70, "a" * 80, "a" * 260]
    assert driver_of(build("sd3")).truncated(texts).tolist() == [False, False, True]
    assert driver_of(build("sd3-no-t5")).truncated(texts).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "name", ["Img2Img", "Inpaint", "ControlNet", "ControlNetInpainting", "PAG"]
)
def test_siblings_make_the_same_images(name: str) -> None:
    own = build("sd3")
    parts: dict[str, Any] = {}
    if "ControlNet" in name:
        parts["controlnet"] = diffusers.SD3ControlNetModel.from_transformer(
            own.transformer, num_layers=1, load_weights_from_transformer=False
        )
    driver = sibling(own, getattr(diffusers, f"StableDiffusion3{name}Pipeline"), **parts)
    assert torch.equal(pictures(driver), pictures(driver_of(own)))
    assert as_sibling(driver.owner).startswith(f"StableDiffusion3{name}Pipeline is run from text")


def test_a_transformer_that_takes_a_mask_is_refused() -> None:
    own = build("sd3")
    own.transformer = diffusers.SD3Transformer2DModel.from_config(
        own.transformer.config, in_channels=9
    )
    with pytest.raises(InputError, match="takes 9 channels, 4 of them latents"):
        driver_of(own)


def test_a_second_encoder_is_needed() -> None:
    own = build("sd3")
    own.text_encoder_2 = None
    with pytest.raises(InputError, match="StableDiffusion3Pipeline has no text_encoder_2;"):
        driver_of(own)
