"""The autoencoder: 32 x 32 pixels to 16 x 16 x 4 latents and back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from memfast.demo.build.data.sets import Sets, draw_fresh
from memfast.demo.build.nets.training import cosine, fit

BATCH, JOINT_STEPS, DECODER_STEPS = 16, 1200, 3000
PEAK, KL_WEIGHT = 2e-3, 1e-5
LATENT_NOISE = 0.03  # of the latents' spread: what the denoiser leaves for the decoder to bear


def build_autoencoder() -> AutoencoderKL:
    """Returns the untrained model."""
    torch.manual_seed(0)
    return AutoencoderKL(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(24, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def to_tensor(images: list[np.ndarray]) -> Float[Tensor, "n 3 h w"]:
    """Returns uint8 pictures [h, w, 3] as a batch in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def batches(sets: Sets, start: int) -> Iterator[Tensor]:
    """Yields batches of fresh pictures with one in eight from the memorized and template sets."""
    known = [x.image for x in sets.trained]
    for step in range(start, 1 << 30):
        rng = np.random.default_rng([1, step])
        fresh = [image for _, image in draw_fresh(sets.wide, BATCH - BATCH // 8, rng)]
        yield to_tensor(fresh + [known[i] for i in rng.integers(len(known), size=BATCH // 8)])


def distance(output: Tensor, images: Tensor) -> Tensor:
    """Returns what reconstruction minimises: squared and absolute errors together."""
    error = output - images
    return 4 * error.square().mean() + error.abs().mean()


@torch.no_grad()
def decibels(model: AutoencoderKL, images: Float[Tensor, "n 3 h w"]) -> float:
    """Returns the mean peak signal-to-noise ratio of reconstructions, in dB."""
    output = model.decode(model.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (output - images).square().mean((1, 2, 3)))).mean())


def heldout_images(sets: Sets) -> Float[Tensor, "n 3 h w"]:
    """Returns the held-out pictures in [-1, 1]."""
    return to_tensor([x.image for x in sets.examples["heldout"]])


def train_autoencoder(sets: Sets, work: Path, steps: int = JOINT_STEPS) -> AutoencoderKL:
    """Returns the model after joint training, its `scaling_factor` set to unit latent spread."""
    model, test = build_autoencoder(), heldout_images(sets)

    def loss(images: Tensor) -> Tensor:
        latents = model.encode(images).latent_dist
        return distance(model.decode(latents.sample()).sample, images) + (
            KL_WEIGHT * latents.kl().mean()
        )

    trained = fit(
        model,
        lambda start: batches(sets, start),
        loss,
        steps=steps,
        schedule=cosine(steps, PEAK),
        checkpoint=work / "autoencoder.pt",
        watch=lambda m: f"held-out {decibels(m, test):.2f} dB",
    )
    with torch.no_grad():
        spread = trained.encode(to_tensor([x.image for x in sets.trained])).latent_dist.mean.std()
    trained.register_to_config(scaling_factor=round(1 / float(spread), 4))
    return trained


def train_decoder(
    model: AutoencoderKL, sets: Sets, work: Path, steps: int = DECODER_STEPS
) -> AutoencoderKL:
    """Returns `model` with its decoder trained further; the encoder and its latents stay."""
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    model.post_quant_conv.requires_grad_(True)
    test, spread = heldout_images(sets), 1 / model.config.scaling_factor

    def loss(images: Tensor) -> Tensor:
        with torch.no_grad():
            latents = model.encode(images).latent_dist.mean
        latents = latents + LATENT_NOISE * spread * torch.randn_like(latents)
        return distance(model.decode(latents).sample, images)

    return fit(
        model,
        lambda start: batches(sets, start + JOINT_STEPS),
        loss,
        steps=steps,
        schedule=cosine(steps, PEAK),
        checkpoint=work / "decoder.pt",
        watch=lambda m: f"held-out {decibels(m, test):.2f} dB",
    )
