"""Z-Image: its guidance starts at 0; filling is not counted; siblings."""

from typing import Any

import diffusers
import pytest
import torch

from memfast.pipelines.drivers.calls import watched
from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.table import build


@pytest.mark.parametrize(("scale", "rows"), [(0.0, 1), (1.0, 2)])
def test_a_scale_of_0_is_no_guidance(scale: float, rows: int) -> None:
    driver = driver_of(build("z-image"))
    schedule = driver.schedule(num_inference_steps=1, guidance_scale=scale)
    assert schedule.guidance_scale == scale
    told = driver.encode(["a"])
    seen: list[Any] = []
    with watched(driver.models, lambda arguments: seen.append(driver.latents_of(arguments))):
        driver.generate(told, ["x"], 0, schedule)
    assert [len(latents) for latents in seen] == [rows]


def test_filling_is_not_counted() -> None:
    """16 tokens of an image are filled to 32, 20 and 45 of texts to 32 and 64."""
    driver = driver_of(build("z-image-filled"))
    told = driver.encode(["b", "a dog on a blue background"])
    expected = {"noise_refiner.0": 32, "context_refiner.0": 64, "layers.0": 96}
    for path, length in expected.items():
        own = driver.counted(f"{path}.feed_forward", told.text_rows, length)
        assert own is not None
        assert driver.padded(f"{path}.feed_forward")
        places = [row.nonzero().flatten().tolist() for row in own]
        image = list(range(16))
        texts = [list(range(tokens)) for tokens in (20, 45)]
        assert (
            places
            == {
                32: [image, image],
                64: texts,
                96: [[*image, *(32 + place for place in text)] for text in texts],
            }[length]
        )


def test_without_filling_the_image_counts_whole() -> None:
    driver = driver_of(build("z-image"))
    assert not driver.padded("noise_refiner.0.feed_forward")


def test_truncated_with_its_chat() -> None:
    driver = driver_of(build("z-image"))
    around = int(driver.encode([""]).leaves["cap_feats#"])
    assert driver.truncated(["a" * (512 - around), "a" * (513 - around)]).tolist() == [False, True]


def control(transformer: Any) -> Any:
    config = transformer.config
    return diffusers.ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=4,
        dim=config.dim,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )


@pytest.mark.parametrize(
    "name", ["ZImageImg2ImgPipeline", "ZImageInpaintPipeline", "ZImageControlNetPipeline"]
)
def test_siblings_are_run_from_text_alone(name: str) -> None:
    pipeline = build("z-image")
    parts = dict(pipeline.components)
    if "ControlNet" in name:
        parts["controlnet"] = control(pipeline.transformer)
    drivers = driver_of(getattr(diffusers, name)(**parts)), driver_of(pipeline)
    runs = [
        driver.generate(driver.encode(["a"]), ["x"], 0, {"num_inference_steps": 1})
        for driver in drivers
    ]
    assert torch.equal(*runs)
