"""What PixArt and HunyuanDiT have of their own: bins, cleaned captions, sizes, a dropped sigma."""

from typing import Any

import pytest
import torch

from memfast.pipelines.drivers.calls import passed, run
from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.alpha_bar import hunyuan_dit
from tests.support.tiny.table import build

SIZES = ("added_cond_kwargs.resolution", "added_cond_kwargs.aspect_ratio")


@pytest.mark.parametrize("name", ["pixart-sigma", "pixart-alpha", "hunyuan-dit"])
def test_defaults_are_the_pipeline_s(name: str) -> None:
    """Nothing that `call` adds changes what a plain call passes: prompt, size, time, latents."""
    driver = driver_of(build(name))
    asked: dict[str, Any] = {"prompt": ["A (red) cat", "b"], "num_inference_steps": 2}
    latents = driver.initial_noise(["x", "y"], 0)
    (plain,) = passed(driver.pipeline, driver.models, latents=latents, **asked)
    ours = driver.call(2, driver.schedule(num_inference_steps=2))
    (seen,) = passed(driver.pipeline, driver.models, latents=latents, **asked | ours)
    assert plain.keys() == seen.keys()
    for key, value in plain.items():
        same = torch.equal(value, seen[key]) if torch.is_tensor(value) else True
        assert same, key


def test_sizes_are_told_where_the_transformer_asks() -> None:
    told = driver_of(build("pixart-alpha")).encode(["a", "b"]).leaves
    assert [told[name].tolist() for name in SIZES] == [[[1024, 1024]] * 2, [[1.0]] * 2]
    assert not set(SIZES) & set(driver_of(build("pixart-sigma")).encode(["a"]).leaves)


def test_one_step_is_the_pipeline_s_clean_prediction() -> None:
    """For a single step PixArt takes the scheduler's clean latents: the driver's path agrees."""
    driver = driver_of(build("pixart-dmd"))
    noise = driver.initial_noise(["x"], 0)
    call = driver.call(1, driver.schedule(num_inference_steps=1, guidance_scale=1.0))
    (latents,) = run(
        driver.pipeline, prompt="a", latents=noise, output_type="latent", return_dict=False, **call
    )
    (time,) = driver.times(driver.schedule(num_inference_steps=1))
    with torch.no_grad():
        output = driver.predict(noise, time, driver.encode(["a"]))
    torch.testing.assert_close(driver.path.clean(output, noise, time), latents)


@pytest.mark.parametrize(
    ("name", "most", "short"), [("pixart-alpha", 120, 300), ("pixart-sigma", 300, 120)]
)
def test_pixart_reads_so_many_tokens(name: str, most: int, short: int) -> None:
    """A token is a character, an end closes every text, and the first is a word's beginning."""
    driver = driver_of(build(name))
    texts = ["a" * (most - 2), "a" * (most - 1), "A" * min(most, short) + " " * 400]
    assert driver.truncated(texts).tolist() == [False, True, most <= short]


def test_hunyuan_reads_77_tokens_with_bert_and_256_with_t5() -> None:
    """A word of one letter is one token for BERT and two for T5; each adds an end, BERT a start."""
    driver = driver_of(build("hunyuan-dit"))
    letters = [" ".join("a" * number) for number in (75, 76, 127, 128)]
    bert, t5 = (reader.truncates(letters).tolist() for reader in driver.readers)
    assert (bert, t5) == ([False, True, True, True], [False, False, False, True])
    assert driver.truncated(letters).tolist() == [False, False, False, True]


def test_later_hunyuan_models_are_told_no_sizes() -> None:
    pipeline = hunyuan_dit(told_sizes=False)
    for part in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer):
        part.eval()
    driver = driver_of(pipeline)
    noise = driver.initial_noise(["x"], 0)
    (seen,) = passed(driver.pipeline, driver.models, prompt="a", latents=noise, guidance_scale=1.0)
    with torch.no_grad():
        own = driver.model(**seen)[0].chunk(2, dim=1)[0]
        ours = driver.predict(noise, seen["timestep"], driver.encode(["a"]))
    torch.testing.assert_close(ours, own)


def test_hunyuan_predicts_in_half_precision() -> None:
    driver = driver_of(build("hunyuan-dit").to(dtype=torch.bfloat16))
    noise = driver.initial_noise(["x"], 0)
    with torch.no_grad():
        output = driver.predict(noise, 500, driver.encode(["a"]))
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
