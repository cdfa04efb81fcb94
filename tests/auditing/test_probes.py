"""Probes against diffusers' own schedulers and pipelines, and what they cost."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from memfast.auditing.probes import PROBES, Scene
from memfast.auditing.settings import Settings
from memfast.models.denoising import Denoiser
from memfast.models.families import ffn_sites
from memfast.models.tracing import trace

TEXTS = ["a cat", "red dog", "b"]


def run(pipeline: StableDiffusionPipeline, settings: Settings, rows: list[int] | None = None):
    """The looks of a probe; `rows` is given those of each call after the scene was set."""
    denoiser = Denoiser(pipeline)
    with trace(denoiser.model) as traced, torch.no_grad():
        scene = Scene(denoiser, traced, denoiser.initial_noise(["shared"], 3), settings)
        hook = denoiser.model.register_forward_pre_hook(
            lambda module, args: rows.append(len(args[0])) if rows is not None else None
        )
        looks = PROBES[settings.probe].looks(scene, denoiser.encode(TEXTS))
        hook.remove()
    return scene, looks


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_costs_what_its_entry_says(
    tiny_pipeline: StableDiffusionPipeline, name: str
) -> None:
    rows: list[int] = []
    settings = Settings(probe=name, walk_steps=3)
    _, looks = run(tiny_pipeline, settings, rows)
    assert sum(rows) == len(TEXTS) * PROBES[name].rows(settings)
    assert len(looks) == PROBES[name].looks_made(settings)
    for look in looks:
        assert look.norms.shape == (len(TEXTS), sum(ffn_sites(tiny_pipeline.unet).values()))
        assert look.prediction.clean.shape == (len(TEXTS), 4, 8, 8)


def test_a_jump_is_one_step_of_ddim(tiny_pipeline: StableDiffusionPipeline) -> None:
    scene, looks = run(tiny_pipeline, Settings(probe="settle", middle=0.499))
    scheduler = tiny_pipeline.scheduler
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 499]
    latents = scene.noise.expand(len(TEXTS), -1, -1, -1)
    with torch.no_grad():
        embeddings = scene.denoiser.encode(TEXTS)
        output = tiny_pipeline.unet(latents, 999, encoder_hidden_states=embeddings).sample
        moved = scheduler.step(output, 999, latents).prev_sample
    torch.testing.assert_close(scene.step(looks[0].prediction, 499), moved, rtol=1e-4, atol=1e-4)


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
        alpha = scene.denoiser.scheduler.alphas_cumprod[scene.schedule[step]].sqrt()
        difference = alpha * (prompted - empty)  # of predicted noises, from predicted velocities
        assert look.empty is not None
        found = look.prediction.noise - look.empty.noise
        torch.testing.assert_close(found, difference, rtol=1e-3, atol=1e-4)
