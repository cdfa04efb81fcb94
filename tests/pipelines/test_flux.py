"""Flux.1 and Chroma: embedded and true guidance; whose rows are whose; siblings."""

from typing import Any

import diffusers
import pytest
import torch

from memfast.errors import InputError
from memfast.pipelines.drivers.calls import run, watched
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule, remember
from tests.support.streams import moved, neurons, pictures, sibling
from tests.support.tiny.table import build

TEXTS = ["b", "a red cat"]
T5 = [3, 11]  # a token for the beginning, for each character, an end


def made_by(pipeline: Any, **call: Any) -> Any:
    """Two images by the pipeline's own call."""
    driver, sources = driver_of(pipeline), [generator(i, 0) for i in "xy"]
    noise = driver.noise_of(sources)
    call = {"num_inference_steps": 2, "output_type": "pt", "generator": sources} | call
    return run(pipeline, prompt=TEXTS, latents=noise, **call).images


# ------------------------------------------------------------------ guidance


def test_dev_is_told_the_pipeline_s_own_scale() -> None:
    driver = driver_of(build("flux-dev"))
    assert driver.schedule() == Schedule(28, 3.5)
    assert driver.encode(TEXTS).leaves["guidance"].tolist() == [3.5, 3.5]
    assert not driver.guided(driver.schedule(guidance_scale=7.0))


def test_schnell_takes_no_scale() -> None:
    pipeline = build("flux-schnell")
    driver = driver_of(pipeline)
    assert driver.schedule(guidance_scale=7.0) == driver.schedule() == Schedule(28, 1.0)
    assert driver.schedule(Schedule(4, 7.0)) == Schedule(4, 1.0)
    made = driver.generate(driver.encode(TEXTS), "xy", 0, Schedule(2, 1.0))
    torch.testing.assert_close(made, made_by(pipeline, guidance_scale=7.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_true_guidance(name: str) -> None:
    """As the pipeline makes it; rows with and without the prompt in calls of their own."""
    pipeline = build(name)
    driver = driver_of(pipeline)
    schedule = driver.schedule(num_inference_steps=2, true_guidance_scale=4.0)
    assert driver.guided(schedule)
    assert (driver.together, driver.halves) == (False, ("conditional", "unconditional"))
    seen: list[Any] = []
    with watched(driver.models, lambda arguments: seen.append(arguments)):
        own = made_by(pipeline, true_cfg_scale=4.0, negative_prompt=["", ""])
    for place, told in enumerate((driver.encode(TEXTS), driver.no_prompt.expand(2))):
        for leaf in driver.leaves:
            assert torch.equal(seen[place][leaf], told.leaves[leaf])
    made = driver.generate(driver.encode(TEXTS), "xy", 0, schedule)
    torch.testing.assert_close(made, own, rtol=1e-4, atol=1e-4)
    assert (made - made_by(pipeline)).abs().max() > 1e-3


def test_true_guidance_is_remembered() -> None:
    pipeline = build("flux-dev")
    remember(pipeline, Schedule(3, 2.0, 1.5))
    assert driver_of(pipeline).schedule() == Schedule(3, 2.0, 1.5)
    assert driver_of(pipeline).schedule(Schedule(4, 2.0)) == Schedule(4, 2.0)
    assert driver_of(pipeline).schedule(true_guidance_scale=0.5) == Schedule(3, 2.0)


@pytest.mark.parametrize("name", ["sd-epsilon", "sd3", "flux2", "klein", "chroma"])
def test_other_kinds_have_no_true_guidance_beside_their_own(name: str) -> None:
    with pytest.raises(InputError, match=r"true_guidance_scale 2: .* has none beside"):
        driver_of(build(name)).schedule(true_guidance_scale=2)


# ------------------------------------------------------------------ rows


@pytest.mark.parametrize(("name", "let_in"), [("flux-dev", 0), ("chroma", 1)])
def test_streams(name: str, let_in: int) -> None:
    """Text comes before the image in single blocks; only what is no padding is counted."""
    driver = driver_of(build(name))
    told = driver.encode(TEXTS)
    assert [own.nonzero().flatten().tolist() for own in told.text_rows] == [
        list(range(tokens + let_in)) for tokens in T5
    ]
    lengths = {path: rows.shape[1] for path, rows in neurons(driver, TEXTS).items()}
    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    assert lengths == {f"{double}.ff": 16, f"{double}.ff_context": 512, single: 528}
    counted = {path: driver.counted(path, told.text_rows, n) for path, n in lengths.items()}
    assert counted[f"{double}.ff"] is None
    assert torch.equal(counted[f"{double}.ff_context"], told.text_rows)
    assert torch.equal(moved(driver, TEXTS, single, ~told.text_rows), ~counted[single])


@pytest.mark.parametrize("name", ["flux-dev", "chroma"])
def test_a_text_is_read_as_far_as_t5_reads(name: str) -> None:
    driver = driver_of(build(name))
    assert driver.truncated(["a" * 510, "a" * 511]).tolist() == [False, True]


# ------------------------------------------------------------------ siblings


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flux-dev", "FluxImg2ImgPipeline"),
        ("flux-dev", "FluxInpaintPipeline"),
        ("flux-dev", "FluxControlNetPipeline"),
        ("flux-dev", "FluxKontextPipeline"),
        ("chroma", "ChromaImg2ImgPipeline"),
        ("chroma", "ChromaInpaintPipeline"),
    ],
)
@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
def test_siblings_make_the_same_images(name: str, kind: str) -> None:
    own = build(name)
    parts: dict[str, Any] = {}
    if "ControlNet" in kind:
        sizes = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 1}
        parts["controlnet"] = diffusers.FluxControlNetModel.from_transformer(
            own.transformer, **sizes, load_weights_from_transformer=False
        )
    driver = sibling(own, getattr(diffusers, kind), **parts)
    assert type(driver.pipeline) is type(own)
    assert torch.equal(pictures(driver), pictures(driver_of(own)))


@pytest.mark.parametrize(("kind", "channels"), [("FluxFill", 96), ("FluxControl", 32)])
def test_transformers_that_take_an_image_are_refused(kind: str, channels: int) -> None:
    own = build("flux-dev")
    own.transformer = diffusers.FluxTransformer2DModel.from_config(
        own.transformer.config, in_channels=channels, out_channels=16
    )
    with pytest.raises(InputError, match=f"^{kind}Pipeline: .* takes {channels} channels, 16 of"):
        sibling(own, getattr(diffusers, f"{kind}Pipeline"))
