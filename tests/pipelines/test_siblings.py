"""Pipelines that need an image or a control, driven as their text-to-image sibling."""

from typing import Any

import diffusers
import pytest
import torch

from memfast.errors import InputError
from memfast.pipelines.drivers.table import DRIVERS, as_sibling, driver_of
from tests.support.tiny.table import build

CASES = [
    ("sd-v", "StableDiffusionImg2ImgPipeline"),
    ("sd-epsilon", "StableDiffusionInpaintPipeline"),
    ("sd-epsilon", "StableDiffusionControlNetPipeline"),
    ("lcm", "LatentConsistencyModelImg2ImgPipeline"),
    ("sdxl-euler", "StableDiffusionXLImg2ImgPipeline"),
    ("sdxl-turbo", "StableDiffusionXLInpaintPipeline"),
    ("sdxl-dpm-one-clip", "StableDiffusionXLControlNetPipeline"),
    ("kolors", "KolorsImg2ImgPipeline"),
]


def sibling(pipeline: Any, name: str) -> Any:
    """A pipeline of that class around the same parts, and a control where it needs one."""
    kind = getattr(diffusers, name)
    parts = dict(pipeline.components)
    if "ControlNet" in name:
        parts["controlnet"] = diffusers.ControlNetModel.from_unet(
            pipeline.unet, conditioning_embedding_out_channels=(8, 16)
        ).eval()
    settings = {k: v for k, v in pipeline.config.items() if k.startswith(("force", "requires"))}
    made = kind(**parts, **settings)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[kind for _, kind in CASES])
def test_makes_its_text_to_image_sibling_s_images(name: str, kind: str) -> None:
    own = build(name)
    driver = driver_of(sibling(own, kind))
    assert type(driver.pipeline) is type(own)
    assert type(driver.owner).__name__ == kind
    assert driver.model is own.unet
    schedule = driver.schedule(num_inference_steps=2, guidance_scale=3.0)
    made = driver.generate(driver.encode(["a cat", "b"]), ["x", "y"], 0, schedule)
    asked = driver_of(own)
    same = asked.generate(asked.encode(["a cat", "b"]), ["x", "y"], 0, schedule)
    assert torch.equal(made, same)
    assert as_sibling(driver.owner).startswith(f"{kind} is run from text alone")
    assert as_sibling(own) is None


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.__name__)
def test_siblings_are_classes_of_diffusers(driver: Any) -> None:
    for name in (*driver.pipelines, *driver.siblings):
        assert issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline)


@pytest.mark.parametrize("channels", [8, 9])
def test_a_unet_that_takes_an_image_too_is_refused(channels: int) -> None:
    own = build("sd-epsilon")
    own.unet = diffusers.UNet2DConditionModel.from_config(own.unet.config, in_channels=channels)
    with pytest.raises(InputError, match=f"InpaintPipeline: its UNet takes {channels} channels, 4"):
        driver_of(sibling(own, "StableDiffusionInpaintPipeline"))


def test_another_model_is_put_into_the_pipeline_that_was_given() -> None:
    own = build("sd-epsilon")
    driver = driver_of(sibling(own, "StableDiffusionImg2ImgPipeline"))
    other = build("sd-epsilon", seed=1).unet
    changed = driver.with_model(other)
    assert changed.owner.unet is other
    assert changed.model is other
    assert driver.owner.unet is own.unet
