"""Flux.2 and Klein: guidance, what their language models read, siblings."""

import diffusers
import pytest
import torch

from memfast.pipelines.drivers.calls import run
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule
from tests.support.streams import moved, neurons, pictures, sibling
from tests.support.tiny.table import build

TEXTS = ["b", "a red cat"]
ALL = ["flux2", "klein"]


def test_schedules() -> None:
    given = {"guidance_scale": 3.0}
    for name, own, asked in (
        ("flux2", Schedule(50, 4.0), Schedule(50, 3.0)),
        ("klein", Schedule(50, 4.0), Schedule(50, 3.0)),
        ("klein-distilled", Schedule(50, 1.0), Schedule(50, 1.0)),
        ("klein-kv", Schedule(4, 1.0), Schedule(4, 1.0)),
    ):
        driver = driver_of(build(name))
        assert (driver.schedule(), driver.schedule(given)) == (own, asked), name
        assert driver.guided(asked) == (name == "klein")


@pytest.mark.parametrize("name", ALL)
def test_streams(name: str) -> None:
    """Text comes before the image in single blocks; only what is no padding is counted."""
    driver = driver_of(build(name))
    told = driver.encode(TEXTS)
    lengths = {path: rows.shape[1] for path, rows in neurons(driver, TEXTS).items()}
    double, single = "transformer_blocks.0", "single_transformer_blocks.0.attn"
    assert lengths == {f"{double}.ff": 16, f"{double}.ff_context": 512, single: 528}
    counted = {path: driver.counted(path, told.text_rows, n) for path, n in lengths.items()}
    assert counted[f"{double}.ff"] is None
    assert torch.equal(counted[f"{double}.ff_context"], told.text_rows)
    assert torch.equal(moved(driver, TEXTS, single, ~told.text_rows), ~counted[single])


def test_text_rows_are_the_template_s_and_the_text_s() -> None:
    for name, padding in (("flux2", "left"), ("klein", "right")):
        driver = driver_of(build(name))
        rows = driver.encode(TEXTS).text_rows
        template = 0
        for own, text in zip(rows, TEXTS, strict=True):
            count = int(own.sum())
            template = template or count - len(text)
            assert count == template + len(text)
            assert own[-count:].all() if padding == "left" else own[:count].all()
        fits = "a" * (512 - template)
        assert driver.truncated([fits, fits + "a"]).tolist() == [False, True]


def test_half_precision_loses_nothing_on_the_way() -> None:
    """Klein returns latents as its VAE takes them."""
    pipeline = build("klein").to(torch.bfloat16)
    driver, sources = driver_of(pipeline), [generator("x", 0)]
    made = driver.generate(driver.encode(["b"]), ["x"], 0, Schedule(2, 1.0))
    call = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
    own = run(pipeline, prompt=["b"], latents=driver.noise_of(sources), **call).images
    assert torch.equal(made, own)


def test_siblings_make_the_same_images() -> None:
    own = build("klein")
    driver = sibling(own, diffusers.Flux2KleinInpaintPipeline)
    assert torch.equal(pictures(driver), pictures(driver_of(own)))
    distilled = sibling(own, diffusers.Flux2KleinInpaintPipeline, is_distilled=True)
    assert distilled.schedule().guidance_scale == 1.0
