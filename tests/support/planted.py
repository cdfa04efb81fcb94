"""A pipeline with one planted memory, and cases to evaluate it on."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from memfast.measuring.cases import Case, Cases
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import EMBEDDINGS
from memfast.pipelines.drivers.table import driver_of
from memfast.prompts import Prompt, PromptSet

PLANTED = "a red cat"
SCHEDULE = {"num_inference_steps": 4, "guidance_scale": 1.0}


def pictures(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def plant(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    """Make the caption PLANTED denoise to one image, whatever the noise; returns that image."""
    driver = driver_of(pipeline)
    clean = driver.initial_noise(["planted"], 7)
    embedding = driver.encode([PLANTED]).leaves[EMBEDDINGS]
    forward = pipeline.unet.forward
    products = pipeline.scheduler.alphas_cumprod

    def planted(sample, timestep, encoder_hidden_states, **kwargs):
        output = forward(sample, timestep, encoder_hidden_states=encoder_hidden_states, **kwargs)
        product = products[torch.as_tensor(timestep).cpu()].reshape(-1, 1, 1, 1)
        wanted = (product.sqrt() * sample - clean) / (1 - product).sqrt()
        mine = (encoder_hidden_states - embedding).abs().amax((1, 2)) < 1e-4
        given = output[0] if isinstance(output, tuple) else output.sample
        given[mine] = wanted[mine]
        return output

    pipeline.unet.forward = planted
    return driver.decode(clean)[0]


@pytest.fixture
def memorized_set(tiny_pipeline, tmp_path: Path) -> PromptSet:
    """Four captions with images; the first is planted in `tiny_pipeline`."""
    image = plant(tiny_pipeline)
    images = [image, *pictures(3, seed=1)]
    return save_set(tmp_path, [PLANTED, "a dog on blue", "c background", "b b b"], images)


@pytest.fixture
def reference_set(tmp_path: Path) -> PromptSet:
    """Six other captions with images."""
    texts = ["dog", "cat on dog", "blue background", "red red a", "c c on", "on on dog b"]
    return save_set(tmp_path, texts, list(pictures(6, seed=2)))


def save_set(folder: Path, texts: list[str], images: list[torch.Tensor]) -> PromptSet:
    prompts = []
    for text, image in zip(texts, images, strict=True):
        path = folder / f"{text}.png"
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(path)
        prompts.append(Prompt(text.replace(" ", "-"), text, str(path)))
    return PromptSet.of(prompts)


def cases_of(texts: list[str], seed: int = 0) -> Cases:
    """One training image a caption, each its own group."""
    images = pictures(len(texts), seed=seed)
    return Cases(tuple(Case(t, t, images[k : k + 1], k, False) for k, t in enumerate(texts)))
