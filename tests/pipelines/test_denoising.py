"""The driver as plain tensors, against the scheduler's own arithmetic and the pipeline itself."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)

from memfast.errors import InputError
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import EMBEDDINGS
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator

TYPES = ("epsilon", "v_prediction", "sample")


@pytest.fixture(params=TYPES)
def driver(request: pytest.FixtureRequest, tiny_pipeline: StableDiffusionPipeline) -> Driver:
    tiny_pipeline.scheduler = DDIMScheduler.from_config(
        tiny_pipeline.scheduler.config, prediction_type=request.param
    )
    return driver_of(tiny_pipeline)


def test_noise_and_targets_agree_with_the_scheduler(driver: Driver) -> None:
    clean, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    timesteps = torch.tensor([1, 500, 998])
    noisy = driver.scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(driver.path.add(clean, noise, timesteps), noisy)
    target = driver.path.target(clean, noise, timesteps)
    if driver.scheduler.config.prediction_type == "v_prediction":
        torch.testing.assert_close(target, driver.scheduler.get_velocity(clean, noise, timesteps))
    torch.testing.assert_close(
        driver.path.noise(target, noisy, timesteps), noise, atol=1e-4, rtol=1e-4
    )
    loose = 1e-2 if driver.scheduler.config.prediction_type == "epsilon" else 1e-4
    torch.testing.assert_close(
        driver.path.clean(target, noisy, timesteps), clean, atol=loose, rtol=1e-4
    )


def test_clean_agrees_with_a_scheduler_step(driver: Driver) -> None:
    driver.scheduler.set_timesteps(10)
    timestep = int(driver.scheduler.timesteps[3])
    latents, output = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    step = driver.scheduler.step(output, timestep, latents)
    torch.testing.assert_close(
        driver.path.clean(output, latents, timestep),
        step.pred_original_sample,
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' np.array(tensor)
@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, PNDMScheduler])
def test_predictions_do_not_depend_on_the_scheduler(
    tiny_pipeline: StableDiffusionPipeline, scheduler: type
) -> None:
    """Schedulers that keep latents unscaled (by sigma, not variance preserving) change nothing."""
    before = driver_of(tiny_pipeline)
    latents, embeddings = torch.randn(2, 4, 8, 8), before.encode(["a cat", "dog"])
    tiny_pipeline.scheduler.set_timesteps(4)
    timestep = int(tiny_pipeline.scheduler.timesteps[1])
    expected = before.predict(latents, timestep, embeddings)
    tiny_pipeline.scheduler = scheduler.from_config(tiny_pipeline.scheduler.config)
    tiny_pipeline.scheduler.set_timesteps(4)
    after = driver_of(tiny_pipeline)
    assert torch.equal(after.predict(latents, timestep, embeddings), expected)
    torch.testing.assert_close(
        after.path.clean(expected, latents, timestep),
        before.path.clean(expected, latents, timestep),
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_eulers_own_latents_are_these_divided_by_alpha(
    tiny_pipeline: StableDiffusionPipeline,
) -> None:
    """One Euler step of diffusers, from its latents, against one of ours from ours."""
    tiny_pipeline.scheduler = EulerDiscreteScheduler.from_config(
        tiny_pipeline.scheduler.config, timestep_spacing="trailing"
    )
    driver, scheduler = driver_of(tiny_pipeline), tiny_pipeline.scheduler
    scheduler.set_timesteps(4)
    now, then = scheduler.timesteps[1:3]
    latents, embeddings = torch.randn(2, 4, 8, 8), driver.encode(["a cat", "dog"])
    output = driver.predict(latents, int(now), embeddings)
    ours = driver.path.add(
        driver.path.clean(output, latents, int(now)),
        driver.path.noise(output, latents, int(now)),
        int(then),
    )
    alpha = [scheduler.alphas_cumprod[int(timestep)].sqrt() for timestep in (now, then)]
    theirs = latents / alpha[0]
    output = driver.model(scheduler.scale_model_input(theirs, now), now, **embeddings.leaves).sample
    theirs = scheduler.step(output, now, theirs).prev_sample
    torch.testing.assert_close(ours, theirs * alpha[1], atol=1e-5, rtol=1e-4)


def test_generation_is_the_pipelines_own(tiny_pipeline: StableDiffusionPipeline) -> None:
    driver = driver_of(tiny_pipeline)
    settings = {"num_inference_steps": 3, "guidance_scale": 2.0}
    images = driver.generate(driver.encode(["a cat", "dog"]), ["x", "y"], 7, settings)
    theirs = tiny_pipeline(
        ["a cat", "dog"],
        generator=[generator("x", 7), generator("y", 7)],
        output_type="pt",
        **settings,
    ).images
    torch.testing.assert_close(images, theirs)


@pytest.mark.parametrize("added", [[], ["<toy>", "<toy>_1"]])  # a textual inversion of two vectors
@pytest.mark.parametrize("masked", [False, True])
def test_embeddings_are_the_pipelines_own(
    tiny_pipeline: StableDiffusionPipeline, added: list[str], masked: bool
) -> None:
    tiny_pipeline.tokenizer.add_tokens(added)
    tiny_pipeline.text_encoder.resize_token_embeddings(2000)
    tiny_pipeline.text_encoder.config.use_attention_mask = masked
    texts = ["a cat", "", "a <toy> of a very long " + "dog " * 100]
    theirs = tiny_pipeline.encode_prompt(texts, "cpu", 1, False)[0]
    assert torch.equal(driver_of(tiny_pipeline).encode(texts).leaves[EMBEDDINGS], theirs)


def test_noise_depends_on_id_and_seed_alone(tiny_pipeline: StableDiffusionPipeline) -> None:
    driver = driver_of(tiny_pipeline)
    together = driver.initial_noise(["a", "b"], 0)
    assert torch.equal(together[1], driver.initial_noise(["b"], 0)[0])
    assert not torch.equal(together[1], driver.initial_noise(["b"], 1)[0])
    assert not torch.equal(together[0], together[1])


def test_loss_is_the_mean_squared_error_and_differentiable(
    tiny_pipeline: StableDiffusionPipeline,
) -> None:
    driver = driver_of(tiny_pipeline)
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    embeddings = torch.randn(2, 12, 32, requires_grad=True)
    told = Conditioning({EMBEDDINGS: embeddings}, (EMBEDDINGS,))
    loss = driver.loss(clean, told, noise, torch.tensor([3, 900]))
    timesteps = torch.tensor([3, 900])
    noisy = driver.scheduler.add_noise(clean, noise, timesteps)
    output = driver.model(noisy, timesteps, encoder_hidden_states=embeddings).sample
    velocity = driver.scheduler.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(loss, ((output - velocity) ** 2).mean((1, 2, 3)))
    loss.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() > 0


def test_vae_round_trip_is_scaled(tiny_pipeline: StableDiffusionPipeline) -> None:
    driver = driver_of(tiny_pipeline)
    latents = driver.encode_images(torch.rand(2, 3, 16, 16))
    assert latents.shape == (2, 4, 8, 8)
    images = driver.decode(latents)
    assert images.shape == (2, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1


def test_another_kind_of_pipeline_is_refused(tiny_pipeline: StableDiffusionPipeline) -> None:
    tiny_pipeline.vae = None
    with pytest.raises(InputError, match="vae"):
        driver_of(tiny_pipeline)
