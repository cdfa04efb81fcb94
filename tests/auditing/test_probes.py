"""Probes against diffusers' own schedulers and pipelines, and what they cost."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from memfast_kernels import Moments

from memfast.auditing.looking import taps
from memfast.auditing.looking.probes import PROBES, Scene, Unit
from memfast.auditing.looking.settings import Settings
from memfast.blocks.families import ffn_sites
from memfast.observing.tracing import trace
from memfast.pipelines.drivers.calls import run as pipeline_run
from memfast.pipelines.drivers.calls import watched
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.table import ONE_A_KIND, TINY, build, marked

TEXTS = ["a cat", "red dog", "b"]
SCHEDULE = {"num_inference_steps": 20, "guidance_scale": 7.5}


def run(pipeline: StableDiffusionPipeline, settings: Settings, rows: list[int] | None = None):
    """The looks of a probe; `rows` is given those of each call after the scene was set."""
    driver = driver_of(pipeline)
    with taps.tap(driver) as tapping, torch.no_grad():
        scene = Scene(driver, tapping, driver.initial_noise(["shared"], 3), settings)
        if settings.probe == "shared":
            assert scene.shared  # computed once a run
        hook = driver.model.register_forward_pre_hook(
            lambda _, args, given: rows.append(len(given["sample"])) if rows is not None else None,
            with_kwargs=True,
        )
        looks = PROBES[settings.probe].looks(scene, Unit(driver.encode(TEXTS), len(TEXTS)))
        hook.remove()
    return scene, looks


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_costs_what_its_entry_says(
    tiny_pipeline: StableDiffusionPipeline, name: str
) -> None:
    rows: list[int] = []
    settings = Settings(probe=name, walk_steps=3, **SCHEDULE)
    _, looks = run(tiny_pipeline, settings, rows)
    assert sum(rows) == len(TEXTS) * PROBES[name].rows(settings)
    assert len(looks) == PROBES[name].looks_made(settings)
    for look in looks:
        assert look.norms.shape == (len(TEXTS), sum(ffn_sites(tiny_pipeline.unet).values()))
        assert look.prediction.clean.shape == (len(TEXTS), 4, 8, 8)


def test_a_jump_is_one_step_of_ddim(tiny_pipeline: StableDiffusionPipeline) -> None:
    scene, looks = run(tiny_pipeline, Settings(probe="settle", path=(0.499,), **SCHEDULE))
    scheduler = tiny_pipeline.scheduler
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 499]
    latents = scene.noise.expand(len(TEXTS), -1, -1, -1)
    with torch.no_grad():
        embeddings = scene.driver.encode(TEXTS)
        output = tiny_pipeline.unet(latents, 999, **embeddings.leaves).sample
        moved = scheduler.step(output, 999, latents).prev_sample
    torch.testing.assert_close(scene.step(looks[0].prediction, 499), moved, rtol=1e-4, atol=1e-4)


def test_every_level_is_a_jump_of_its_own(tiny_pipeline: StableDiffusionPipeline) -> None:
    settings = Settings(probe="levels", path=(0.6, 0.2), **SCHEDULE)
    _, looks = run(tiny_pipeline, settings)
    for look, level in zip(looks[1:], settings.path, strict=True):
        alone = Settings(probe="jump", path=(level,), **SCHEDULE)
        _, (_, expected) = run(tiny_pipeline, alone)
        assert torch.equal(look.prediction.noise, expected.prediction.noise)
        assert torch.equal(look.empty.noise, expected.empty.noise)
        assert torch.equal(look.norms, expected.norms)


def test_shared_latents_are_the_unprompted_jump(tiny_pipeline: StableDiffusionPipeline) -> None:
    settings = Settings(probe="shared", path=(0.6, 0.2), **SCHEDULE)
    scene, looks = run(tiny_pipeline, settings)
    for look, level in zip(looks, settings.path, strict=True):
        time = scene.driver.path.time_of(level)
        latents = scene.step(scene.empty, time)
        told = scene.driver.encode(TEXTS)
        with torch.no_grad():
            given = scene.driver.predict(latents.expand(3, -1, -1, -1), time, told)
            empty = scene.driver.predict(latents, time, scene.no_prompt)
        for output, prediction in ((given, look.prediction), (empty, look.empty)):
            noise = scene.driver.path.noise(output, latents.expand_as(output), time)
            torch.testing.assert_close(prediction.noise, noise, rtol=1e-4, atol=1e-5)
    assert looks[0].moments
    assert sum(m.count.sum() for m in looks[0].moments.values()) > 0


def test_a_walk_is_the_pipelines_own(tiny_pipeline: StableDiffusionPipeline) -> None:
    settings = Settings(probe="walk", walk_steps=3, num_inference_steps=5, guidance_scale=4.0)
    scene, looks = run(tiny_pipeline, settings)
    seen: list[torch.Tensor] = []
    handle = tiny_pipeline.unet.register_forward_hook(
        lambda module, args, output: seen.append(output[0])
    )
    tiny_pipeline(
        TEXTS,
        latents=scene.noise.repeat(len(TEXTS), 1, 1, 1),
        num_inference_steps=5,
        guidance_scale=4.0,
        output_type="latent",
    )
    handle.remove()
    assert len(looks) == 3
    for step, look in enumerate(looks):
        empty, prompted = seen[step].chunk(2)
        alpha = scene.driver.scheduler.alphas_cumprod[scene.schedule[step]].sqrt()
        difference = alpha * (prompted - empty)  # of predicted noises, from predicted velocities
        assert look.empty is not None
        found = look.prediction.noise - look.empty.noise
        torch.testing.assert_close(found, difference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", marked(TINY, ONE_A_KIND))
def test_a_flow_s_walk_is_the_pipeline_s_own(name: str) -> None:
    """However a kind guides: at each step, the latents of its own run."""
    own = {"num_inference_steps": 4, "guidance_scale": 3.0}
    driver = driver_of(build(name), **own)
    scheduler = type(driver.scheduler).__name__
    if scheduler != "FlowMatchEulerDiscreteScheduler" or len(driver.alike(TEXTS)) > 1:
        pytest.skip(f"{name}: {scheduler}, or texts of unlike lengths in runs of their own")
    schedule = driver.schedule()
    seen: list[torch.Tensor] = []
    predict = driver.predict
    driver.predict = lambda x, *told: seen.append(x) or predict(x, *told)  # type: ignore[method-assign]
    with taps.tap(driver) as tapping, torch.no_grad():
        settings = Settings(probe="walk", walk_steps=3, **schedule.as_dict())
        scene = Scene(driver, tapping, driver.initial_noise(["shared"], 3), settings)
        seen.clear()
        PROBES["walk"].looks(scene, Unit(driver.encode(TEXTS), len(TEXTS)))
    theirs: list[torch.Tensor] = []
    with watched(driver.models, lambda given: theirs.append(driver.latents_of(given))):
        call = driver.call(len(TEXTS), schedule) | {"output_type": "latent"}
        noise = scene.noise.repeat(len(TEXTS), *[1] * (scene.noise.ndim - 1))
        pipeline_run(driver.pipeline, prompt=TEXTS, latents=noise, **call)
    calls = 1 if driver.together or not driver.guided(schedule) else 2
    for step in range(1, 3):  # two calls of ours a step after the first, without and with
        torch.testing.assert_close(
            seen[2 * step], theirs[calls * step][: len(TEXTS)], rtol=1e-3, atol=1e-3
        )


@pytest.fixture(params=["taps", "gates"])
def tapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to see neurons, whatever the device."""
    monkeypatch.setattr(taps, "gates_tell", lambda driver: request.param == "gates")


@pytest.mark.usefixtures("tapped")
def test_norms_and_moments_are_those_of_a_trace(tiny_pipeline: StableDiffusionPipeline) -> None:
    """At pure noise, with the shared part replayed, as in a pass of the whole network."""
    scene, (look,) = run(tiny_pipeline, Settings(probe="first", **SCHEDULE))
    assert scene.start.prefix.outputs
    with trace(tiny_pipeline.unet) as traced, torch.no_grad():
        latents = scene.noise.repeat(len(TEXTS), 1, 1, 1)
        output = scene.driver.predict(latents, 999, scene.driver.encode(TEXTS))
        seen = traced.drain()
    clean = scene.driver.path.clean(output, latents, 999)
    torch.testing.assert_close(look.prediction.clean, clean, rtol=1e-4, atol=1e-5)
    norms = torch.cat([moments.l2_norm for moments in seen.values()], 1)
    torch.testing.assert_close(look.norms, norms, rtol=1e-5, atol=1e-6)
    assert look.moments is not None
    assert list(look.moments) == list(seen)
    for site, moments in look.moments.items():
        expected = seen[site].pool()
        assert moments.count.tolist() == expected.count.tolist()
        torch.testing.assert_close(moments.mean, expected.mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(moments.variance, expected.variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["flux-dev", "sd3"])
def test_one_read_by_a_kernel_gives_the_same_norms(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding of texts left out, too."""
    driver, norms = driver_of(build(name)), []
    for kernels in (False, True):
        monkeypatch.setattr(taps, "has_kernels", lambda driver, own=kernels: own)
        with taps.tap(driver) as tapping, torch.no_grad():
            settings = Settings(probe="first", **driver.schedule().as_dict())
            scene = Scene(driver, tapping, driver.initial_noise(["shared"], 3), settings)
            norms.append(scene.first(Unit(driver.encode(TEXTS), len(TEXTS))).norms)
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("tapped")
def test_prompts_that_are_not_finite_leave_no_moments(
    tiny_pipeline: StableDiffusionPipeline,
) -> None:
    driver = driver_of(tiny_pipeline)
    settings = Settings(probe="first", **SCHEDULE)

    def moments(told: Conditioning, rows: int) -> dict[str, Moments]:
        looks = PROBES["first"].looks(scene, Unit(told, rows))
        return looks[0].moments or {}

    with taps.tap(driver) as tapping, torch.no_grad():
        scene = Scene(driver, tapping, driver.initial_noise(["shared"], 3), settings)
        told = driver.encode(TEXTS)
        expected = moments(told, 2)
        (name,) = told.searched
        poisoned = told.leaves[name].clone()
        poisoned[2] = torch.nan
        found = moments(told.told({name: poisoned}), 3)
    for site, own in expected.items():
        assert torch.equal(found[site].count, own.count)
        torch.testing.assert_close(found[site].mean, own.mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[site].m2, own.m2, rtol=1e-4, atol=1e-6)


def test_the_shared_part_is_what_no_prompt_has_touched(
    tiny_pipeline: StableDiffusionPipeline,
) -> None:
    """It reaches up to the first cross-attention, and leaves the model as it was."""
    scene, _ = run(tiny_pipeline, Settings(probe="first", **SCHEDULE))
    paths = {module: path for path, module in tiny_pipeline.unet.named_modules()}
    kept = {paths[module] for module in scene.start.prefix.outputs}
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert {"conv_in", "down_blocks.0.resnets.0", f"{block}.attn1", f"{block}.norm2"} <= kept
    assert not any("attn2" in path or path.startswith(("mid", "up")) for path in kept)
    assert not any("forward" in module.__dict__ for module in tiny_pipeline.unet.modules())
