"""Wan: frames, two transformers of one pipeline, and what is known of the one that did not run."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from memfast import InputError, Subspace, collect, compact, locate, prune
from memfast.blocks.denoisers import Denoisers
from memfast.blocks.families import ffn_sites, find_sites
from memfast.choosing.importance import importance
from memfast.pipelines.drivers.table import as_sibling, driver_of
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.loading import denoiser_of, replace_denoiser
from memfast.pipelines.schedule import Schedule, remember
from memfast.sharing.formats import FORMATS, save_as
from tests.support.models import random_subspace
from tests.support.tiny import videos
from tests.support.tiny.table import TINY, build

SHORT = {"num_inference_steps": 4}


@pytest.fixture
def two() -> Any:
    return build("wan-still")


def made(pipeline: Any) -> torch.Tensor:
    driver = driver_of(pipeline)
    return driver.generate(driver.encode(["a cat"]), ["x"], 0, {**SHORT, "guidance_scale": 2.0})


def test_default_frames_are_the_pipeline_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "wan-whole", videos.wan)
    driver = driver_of(build("wan-whole"))
    assert driver.latent_shape == (4, 21, 15, 26)
    assert driver.size == (480, 832)


def test_frames_are_remembered_with_a_schedule() -> None:
    pipeline = build("wan-still")
    remember(pipeline, Schedule(3, 2.0))
    driver = driver_of(pipeline)
    assert driver.latent_shape[1] == 1
    assert driver.schedule() == Schedule(3, 2.0)


def test_half_a_video_decodes_to_its_middle_frame() -> None:
    driver = driver_of(build("wan"))
    latents = driver.initial_noise(["x"], 0)
    with torch.no_grad():
        video = driver.pipeline.vae.decode(driver.codec.restored(latents)).sample
    assert video.shape[2] == 5
    middle = (video[:, :, 2] / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(driver.decode(latents), middle)


def test_sites_of_both_transformers(two: Any) -> None:
    model = denoiser_of(two)
    assert isinstance(model, Denoisers)
    sites = ffn_sites(model)
    assert {path: n for path, n in sites.items() if path.startswith("transformer_2.")} == {
        f"transformer_2.{path}": n for path, n in ffn_sites(two.transformer_2).items()
    }
    assert len(sites) == 4
    assert fingerprint(model) == fingerprint(denoiser_of(two)) == fingerprint(copy.deepcopy(model))
    assert fingerprint(model) != fingerprint(two.transformer)


def test_without_a_boundary_the_second_is_no_site(two: Any) -> None:
    two.register_to_config(boundary_ratio=None)
    assert denoiser_of(two) is two.transformer


def test_the_noise_level_chooses(two: Any) -> None:
    driver = driver_of(two)
    assert driver.denoising(900.0) is two.transformer
    assert driver.denoising(899.0) is two.transformer_2
    conditioning = driver.encode(["a", "b c"])
    noise, times = driver.initial_noise(["x", "y"], 0), torch.tensor([950.0, 200.0])
    with torch.no_grad():
        both = driver.predict(noise, times, conditioning)
        for row, time in enumerate(times):
            alone = driver.predict(noise[row : row + 1], time, conditioning[[row]])
            torch.testing.assert_close(alone[0], both[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_compact_equals_masked_and_is_saved(two: Any, form: str, tmp_path: Path) -> None:
    model = denoiser_of(two)
    subspace = random_subspace(model)
    before = made(two)
    smaller = compact(model, subspace, multiple_of=1, compensate="none")
    assert ffn_sites(smaller) == {p: int((~m).sum()) for p, m in subspace.neurons.items()}
    small = made(driver_of(two).with_model(smaller).pipeline)
    masked = made(driver_of(two).with_model(prune(model, subspace)).pipeline)
    torch.testing.assert_close(small, masked, atol=1e-5, rtol=0)
    assert not torch.allclose(small, before, atol=1e-3)
    torch.testing.assert_close(made(two), before)

    replace_denoiser(two, smaller)
    save_as(two, tmp_path / "out", form)
    again = DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(made(again), small, atol=1e-5, rtol=0)


@pytest.mark.parametrize("over_steps", ["mean", "union", "intersection"])
def test_locate_where_one_transformer_did_not_run(two: Any, over_steps: str) -> None:
    """Of the first step nothing is known below the boundary, of all four there is."""
    model = denoiser_of(two)
    driver = driver_of(two)
    high = [time >= 900 for time in driver.times(driver.schedule(**SHORT))]
    assert set(high) == {True, False}
    for steps, second in ((1, False), (4, True)):
        sets = [collect(two, texts, steps=steps, **SHORT) for texts in (["a cat"], ["b", "dog"])]
        ran = {path: (sets[0].moments[path].count > 0).tolist() for path in sets[0].sites}
        for path in find_sites(model):
            assert ran[path] == [at == path.startswith("transformer.") for at in high[:steps]]
        found = locate(*sets, model, fraction=0.2, over_steps=over_steps)
        assert found.removed > 0
        there = {path.partition(".")[0] for path, mask in found.neurons.items() if mask.any()}
        assert "transformer" in there
        assert second or there == {"transformer"}
        if not second:
            with pytest.raises(InputError, match=r"transformer_2\.blocks\.0\.ffn did not run"):
                importance(find_sites(model), sets[1])


def test_idle_steps_do_not_dilute(two: Any) -> None:
    """The mean over steps is over those at which a site ran, by hand."""
    model = denoiser_of(two)
    ours, theirs = (collect(two, texts, steps=4, **SHORT) for texts in (["a cat"], ["b", "dog"]))
    scores = {}
    for path, site in find_sites(model).items():
        ran = ours.moments[path].count > 0
        norms = [
            (each[path].variance + each[path].mean.square()).sqrt()[ran] for each in (ours, theirs)
        ]
        weight = site.contraction.weight.detach().double().norm(dim=0)
        scores[path] = weight * (norms[0] - norms[1]).mean(0)
    flat = torch.cat(list(scores.values()))
    best = torch.zeros_like(flat, dtype=torch.bool)
    best[flat.argsort(descending=True)[: int(0.1 * len(flat))]] = True
    found = locate(ours, theirs, model, fraction=0.1)
    assert torch.equal(torch.cat([found.neurons[path] for path in scores]), best)


def test_a_subspace_of_both_is_kept(two: Any, tmp_path: Path) -> None:
    subspace = random_subspace(denoiser_of(two))
    subspace.save(tmp_path / "s.safetensors")
    assert Subspace.load(tmp_path / "s.safetensors").sites == list(ffn_sites(denoiser_of(two)))


def test_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "v2v", lambda: videos.sibling("WanVideoToVideoPipeline", frames=1))
    monkeypatch.setitem(TINY, "t2v", lambda: videos.wan(frames=1))
    pipeline = build("v2v")
    torch.testing.assert_close(made(pipeline), made(build("t2v")))
    assert "WanVideoToVideoPipeline is run from text alone" in str(as_sibling(pipeline))


def test_a_transformer_that_takes_an_image_is_refused() -> None:
    with pytest.raises(InputError, match="takes 9 channels, 4 of them latents"):
        driver_of(videos.wan(channels=9))
