"""Qwen-Image: guidance as it takes effect, rows, limits, siblings."""

from typing import Any

import diffusers
import pytest
import torch

from memfast.pipelines.drivers.calls import watched
from memfast.pipelines.drivers.table import as_sibling, driver_of
from memfast.pipelines.schedule import Schedule, remember
from tests.support.tiny.table import build


@pytest.mark.parametrize(("asked", "calls"), [(None, 1), (1.0, 1), (4.0, 2)])
def test_guidance_is_what_takes_effect(asked: float | None, calls: int) -> None:
    driver = driver_of(build("qwen-image"))
    schedule = driver.schedule(num_inference_steps=1, guidance_scale=asked)
    assert schedule.guidance_scale == (asked or 1.0)
    told = driver.encode(["a"])
    seen: list[Any] = []
    with watched(driver.models, seen.append):
        driver.generate(told, ["x"], 0, schedule)
    assert len(seen) == calls


def test_what_is_remembered_is_its_own() -> None:
    pipeline = build("qwen-image")
    remember(pipeline, Schedule(3, 2.5))
    assert driver_of(pipeline).schedule() == Schedule(3, 2.5)


def test_text_rows_are_the_prompt_s() -> None:
    driver = driver_of(build("qwen-image"))
    rows = driver.encode(["a red cat", "b"]).text_rows
    assert rows is not None
    end = 13  # <|im_end|> \n <|im_start|> assistant \n
    assert rows.sum(1).tolist() == [9 + end, 1 + end]
    assert driver.no_prompt.text_rows is not None
    assert driver.no_prompt.text_rows.sum() == 1 + end


def test_truncated_without_its_template() -> None:
    driver = driver_of(build("qwen-image"))
    assert driver.truncated(["a" * 499, "a" * 500]).tolist() == [False, True]
    rows = driver.encode(["a" * 499, "a" * 600]).text_rows
    assert rows is not None
    assert rows.sum(1).tolist() == [512, 512]


def test_siblings_are_run_from_text_alone() -> None:
    pipeline = build("qwen-image")
    sibling = diffusers.QwenImageImg2ImgPipeline(**pipeline.components)
    driver = driver_of(sibling)
    assert as_sibling(sibling) == (
        "QwenImageImg2ImgPipeline is run from text alone, as QwenImagePipeline: "
        "images, masks and controls are left out"
    )
    driver.pipeline.default_sample_size = pipeline.default_sample_size
    runs = [
        d.generate(d.encode(["a"]), ["x"], 0, {"num_inference_steps": 1})
        for d in (driver, driver_of(pipeline))
    ]
    assert torch.equal(*runs)
