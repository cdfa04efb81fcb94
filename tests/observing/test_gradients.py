"""Gate gradients against plain autograd on the activations themselves."""

import pytest
import torch
from diffusers.models.attention import FeedForward

import memfast
from memfast.errors import InputError
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.prompts import make_prompt

SHORT = {"steps": 2, "num_inference_steps": 4, "guidance_scale": 1.0}


def test_equal_to_activation_times_gradient(tiny_pipeline):
    found = memfast.collect_gradients(tiny_pipeline, ["a cat"], **SHORT)
    driver, prompt = driver_of(tiny_pipeline), make_prompt("a cat")
    embeddings = driver.encode([prompt.text])
    schedule = {"num_inference_steps": 4, "guidance_scale": 1.0}
    images = driver.generate(embeddings, [prompt.id], 0, schedule)
    clean = driver.encode_images(images)
    seen: dict[str, torch.Tensor] = {}
    for path, block in tiny_pipeline.unet.named_modules():
        if isinstance(block, FeedForward):

            def keep(_, inputs, path=path):
                inputs[0].retain_grad()
                seen[path] = inputs[0]

            block.net[2].register_forward_pre_hook(keep)
    source = generator(prompt.id, 0)
    for step, timestep in enumerate(driver.scheduler.timesteps[:2]):
        noise = torch.randn(clean.shape[1:], generator=source)[None]
        driver.loss(clean, embeddings, noise, int(timestep)).sum().backward()
        for path, hidden in seen.items():
            expected = (hidden * hidden.grad).sum((0, 1)).detach().double()
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                found[path].mean[step], expected, rtol=1e-4, atol=1e-5 * scale
            )


def test_each_prompt_counts_once(tiny_pipeline):
    one, other = (
        memfast.collect_gradients(tiny_pipeline, texts, **SHORT, batch_size=2)
        for texts in (["a cat", "a dog", "b"], ["red c"])
    )
    assert one.header["quantity"] == "gradient"
    assert all(int(one[path].count[0, 0]) == 3 for path in one.sites)
    found = memfast.locate(one, other, tiny_pipeline.unet, fraction=0.1)
    assert found.header["score"] == "gradient"
    assert not found.mean
    assert not any(p.grad is not None for p in tiny_pipeline.unet.parameters())
    with pytest.raises(InputError, match="score must be one of gradient"):
        memfast.locate(one, other, tiny_pipeline.unet, fraction=0.1, score="wanda")


def test_an_image_that_cannot_be_read_is_noted(tiny_pipeline, tmp_path):
    """The model's own picture stands in for it."""
    prompt = make_prompt("a cat", image=str(tmp_path / "none.png"))
    found = memfast.collect_gradients(tiny_pipeline, [prompt], **SHORT)
    assert "no such file" in found.header["notes"][0]
    own = memfast.collect_gradients(tiny_pipeline, [make_prompt("a cat")], **SHORT)
    path = found.sites[0]
    assert torch.equal(found[path].mean, own[path].mean)
