"""Kinds in which no text passes a feed-forward: all rows are the image's and depend on it alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from memfast.blocks.families import find_sites
from memfast.pipelines.drivers.calls import run
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import AlphaBar
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from tests.support.tiny.table import ONE_A_KIND, TINY, build, marked

TEXTS = ["a red cat", "b", "a dog on a blue background"]
IDS = ["one", "two", "three"]


@pytest.fixture(scope="module", params=marked(TINY, ONE_A_KIND))
def driver(request: Any) -> Driver:
    found = driver_of(build(request.param))
    if not isinstance(found.path, AlphaBar):
        pytest.skip("rectified flow")
    return found


def neurons(driver: Driver, texts: list[str], ids: list[str]) -> dict[str, Tensor]:
    """What every contraction reads in the pipeline's own run, all steps: [calls, images, ...]."""
    seen: dict[str, list[Tensor]] = {}
    handles = [
        site.contraction.register_forward_pre_hook(
            lambda _, args, path=path: seen.setdefault(path, []).append(args[0])
        )
        for path, site in find_sites(driver.model).items()
    ]
    sources = [generator(i, 0) for i in ids]
    call = driver.call(len(ids), driver.schedule(num_inference_steps=2, guidance_scale=1.0))
    latents = driver.noise_of(sources)
    run(
        driver.pipeline,
        prompt=texts,
        latents=latents,
        generator=sources,
        output_type="latent",
        **call,
    )
    for handle in handles:
        handle.remove()
    return {path: torch.stack(rows) for path, rows in seen.items()}


def test_rows_are_the_image_s_and_depend_on_no_other_prompt(driver: Driver) -> None:
    assert driver.encode(TEXTS).text_rows is None
    together = neurons(driver, TEXTS, IDS)
    assert together.keys() == find_sites(driver.model).keys()
    height, width = driver.latent_shape[-2:]
    for path, rows in together.items():
        assert driver.stream(path) == "image"
        assert driver.counted(path, None, rows.shape[2]) is None
        shrunk = height * width / rows.shape[2]
        assert rows.shape[1] == 3
        assert (shrunk**0.5).is_integer()  # a map whose sides are the latents' over a whole number
    for row, text in enumerate(TEXTS):
        for path, rows in neurons(driver, [text], IDS[row : row + 1]).items():
            torch.testing.assert_close(rows[:, 0], together[path][:, row], rtol=1e-4, atol=1e-4)
