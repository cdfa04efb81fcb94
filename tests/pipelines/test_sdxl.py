"""Stable Diffusion XL's own: no prompt as zeros, a told scale, a VAE in float32, a refiner."""

from typing import Any

import diffusers
import pytest
import torch

from memfast.errors import InputError
from memfast.pipelines.drivers.alpha_bar.sdxl import StableDiffusionXL
from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.table import build

POOLED = "added_cond_kwargs.text_embeds"


@pytest.mark.parametrize(("name", "zeros"), [("sdxl-euler", True), ("sdxl-turbo", False)])
def test_no_prompt_is_zeros_where_the_config_says_so(name: str, zeros: bool) -> None:
    told = driver_of(build(name)).no_prompt.leaves
    assert all((told[leaf] == 0).all() == zeros for leaf in StableDiffusionXL.leaves)


def test_a_distilled_unet_is_told_its_own_scale() -> None:
    driver = driver_of(build("sdxl-lcm"))
    assert driver.embedded
    assert not driver.guided(driver.schedule(guidance_scale=8.0))
    told = driver.pipeline.get_guidance_scale_embedding(torch.tensor([4.0]), embedding_dim=16)
    assert driver.schedule().guidance_scale == 5
    assert torch.equal(driver.encode(["a"]).leaves["timestep_cond"], told)


def test_a_half_precision_vae_computes_in_float32() -> None:
    driver = driver_of(build("sdxl-euler"))
    latents = driver.initial_noise(["one"], 0)
    driver.pipeline.vae.to(torch.float16)
    made = driver.decode(latents)
    driver.encode_images(made)
    assert driver.pipeline.vae.dtype == torch.float16
    driver.pipeline.vae.to(torch.float32)
    assert torch.equal(made, driver.decode(latents))


def test_half_precision_predicts() -> None:
    driver = driver_of(build("sdxl-lcm").to(dtype=torch.bfloat16))
    noise = driver.initial_noise(["one"], 0)
    with torch.no_grad():
        output = driver.predict(noise, 500, driver.encode(["a"]))
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


def test_a_refiner_is_refused() -> None:
    parts: dict[str, Any] = build("sdxl-dpm-one-clip").components
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(
        **parts, requires_aesthetics_score=True, add_watermarker=False
    )
    with pytest.raises(InputError, match="a refiner paints over"):
        driver_of(refiner)


def test_an_absent_second_encoder_is_named() -> None:
    pipeline = build("sdxl-euler")
    pipeline.text_encoder_2 = None
    with pytest.raises(InputError, match="has no text_encoder_2"):
        driver_of(pipeline)
