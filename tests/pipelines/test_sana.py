"""Sana: statistics over pixels against its own run, its sizes, and its sibling."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, SanaControlNetModel
from torch import Tensor

from memfast import collect, compact, prune
from memfast.blocks.families import find_sites
from memfast.pipelines.drivers.table import as_sibling, driver_of
from memfast.pipelines.noise import generator
from memfast.prompts import make_prompt
from memfast.sharing.formats import FORMATS, save_as
from tests.support.models import random_subspace
from tests.support.tiny import gemma
from tests.support.tiny.table import TINY, build

TEXTS = ("a red cat", "b")


def made(pipeline: Any) -> Tensor:
    driver = driver_of(pipeline)
    schedule = {"num_inference_steps": 2, "guidance_scale": 2.0}
    return driver.generate(driver.encode(["a cat"]), ["x"], 0, schedule)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_statistics_are_those_of_the_pipeline_s_own_run(batch_size: int) -> None:
    """By its own size and table of resolutions, of the second half of guidance's rows."""
    pipeline = build("sana")
    model = pipeline.transformer
    seen: dict[str, list[Tensor]] = {path: [] for path in find_sites(model)}
    handles = [
        model.get_submodule(f"{path}.conv_point").register_forward_pre_hook(
            lambda _, inputs, path=path: seen[path].append(inputs[0].chunk(2)[1].double())
        )
        for path in seen
    ]
    pipeline(
        list(TEXTS),
        generator=[generator(make_prompt(text).id, 0) for text in TEXTS],
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="latent",
    )
    for handle in handles:
        handle.remove()
    short = {"steps": 2, "num_inference_steps": 2, "guidance_scale": 3.0}
    found = collect(pipeline, TEXTS, batch_size=batch_size, **short)
    for path, steps in seen.items():
        for step, maps in enumerate(steps):
            assert maps.shape[2:] == (16, 16)
            assert int(found[path].count[step, 0]) == 2 * 16 * 16
            mean, l2 = maps.mean((0, 2, 3)), maps.square().sum((0, 2, 3)).sqrt()
            torch.testing.assert_close(found[path].mean[step], mean, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(found[path].l2_norm[step], l2, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_the_masked_model(form: str, tmp_path: Path) -> None:
    pipeline = build("sana-sigma")
    model = pipeline.transformer
    subspace = random_subspace(model)
    pipeline.transformer = prune(model, subspace)
    masked = made(pipeline)
    pipeline.transformer = compact(model, subspace, multiple_of=1, compensate="none")
    save_as(pipeline, tmp_path / "out", form)
    again = DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    again.set_progress_bar_config(disable=True)
    assert form == "masked" or again.transformer.config.ffn_inner_dims
    torch.testing.assert_close(made(again), masked, atol=1e-5, rtol=0)


def test_a_control_net_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    control = {"num_layers": 1, "sample_size": 16, "in_channels": 4, "caption_channels": 32}
    monkeypatch.setitem(
        TINY,
        "control",
        lambda: gemma.sana(
            kind="SanaControlNet",
            controlnet=SanaControlNetModel(
                num_attention_heads=2,
                attention_head_dim=8,
                num_cross_attention_heads=2,
                cross_attention_head_dim=8,
                cross_attention_dim=16,
                **control,
            ),
        ),
    )
    pipeline = build("control")
    own = build("sana")
    for name in ("transformer", "text_encoder", "vae"):
        getattr(own, name).load_state_dict(getattr(pipeline, name).state_dict())
    torch.testing.assert_close(made(pipeline), made(own))
    assert "SanaControlNetPipeline is run from text alone" in str(as_sibling(pipeline))
