"""CogView 4: its feed-forwards run twice in a call, and what a prompt is read as is its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from memfast import InputError, collect
from memfast.blocks.families import find_sites
from memfast.observing.scaling import gated, open_gates
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.prompts import make_prompt
from tests.support.tiny import glm
from tests.support.tiny.table import build

TEXTS = ("a red cat", "b", "a dog on a blue background")
SHORT = {"steps": 2, "num_inference_steps": 2}


def hooked(pipeline: Any, text: str, scale: float) -> dict[str, list[Tensor]]:
    """What plain hooks see in the pipeline's own run of one text: [runs] of rows, by site."""
    seen: dict[str, list[Tensor]] = {path: [] for path in find_sites(pipeline.transformer)}
    handles = [
        site.contraction.register_forward_pre_hook(
            lambda _, inputs, path=path: seen[path].append(inputs[0][0].double())
        )
        for path, site in find_sites(pipeline.transformer).items()
    ]
    pipeline(
        text,
        generator=generator(make_prompt(text).id, 0),
        num_inference_steps=2,
        guidance_scale=scale,
        output_type="latent",
    )
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_statistics_are_those_of_the_pipeline_s_own_runs(batch_size: int, scale: float) -> None:
    """Of each text alone: the image's rows, and of the text's rows the last, which are its own."""
    pipeline = build("cogview4")
    found = collect(pipeline, TEXTS, batch_size=batch_size, guidance_scale=scale, **SHORT)
    calls = 2 if scale > 1 else 1
    rows: dict[str, list[list[Tensor]]] = {path: [[], []] for path in found.sites}
    for text in TEXTS:
        for path, runs in hooked(pipeline, text, scale).items():
            assert len(runs) == 2 * 2 * calls
            for step in range(2):
                image, of_text = runs[2 * calls * step : 2 * calls * step + 2]
                assert len(of_text) % 16 == 0
                rows[path][step] += [image, of_text[-(len(text) + 2) :]]
    for path, of_steps in rows.items():
        for step, seen in enumerate(of_steps):
            every = torch.cat(seen)
            assert int(found[path].count[step, 0]) == len(every)
            torch.testing.assert_close(found[path].mean[step], every.mean(0), atol=1e-6, rtol=1e-5)
            l2 = every.norm(dim=0)
            torch.testing.assert_close(found[path].l2_norm[step], l2, atol=1e-6, rtol=1e-5)


def test_texts_are_padded_alike_within_sixteen_tokens() -> None:
    driver = driver_of(build("cogview4"))
    parts = driver.alike(["a" * n for n in (14, 15, 3, 30)])  # and two tokens that begin
    assert [part.tolist() for part in parts] == [[0, 2], [1, 3]]
    driver.pipeline.tokenizer.padding_side = "right"
    assert len(driver.alike(["a" * n for n in (14, 15, 3, 30)])) == 4


def test_gates_reach_their_images_through_several_calls() -> None:
    """Closing every gate of one image changes that image alone."""
    driver = driver_of(build("cogview4"))
    sites = find_sites(driver.model)
    conditioning, noise = driver.encode(TEXTS), driver.initial_noise(TEXTS, 0)
    with torch.no_grad():
        whole = driver.predict(noise, 500.0, conditioning)
        gates = {path: gate.detach() for path, gate in open_gates(sites, 3).items()}
        for gate in gates.values():
            gate[2] = 0
        with gated(sites, gates, driver=driver):
            closed = driver.predict(noise, 500.0, conditioning)
    torch.testing.assert_close(closed[:2], whole[:2], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(closed[2], whole[2], atol=1e-3)


def test_a_control_is_refused() -> None:
    with pytest.raises(InputError, match="takes 8 channels, 4 of them latents"):
        driver_of(glm.cogview4(channels=8, kind="CogView4Control"))
