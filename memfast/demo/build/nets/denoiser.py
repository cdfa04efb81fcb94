"""The denoiser: a stock conditional UNet on latents, trained to predict the velocity."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from memfast.demo.build.data.sets import LEVELS, Sets
from memfast.demo.build.nets.autoencoder import to_tensor
from memfast.demo.build.nets.clip import tokens
from memfast.demo.build.nets.training import fit, plateau

BATCH, STEPS, PEAK = 24, 9_000, 1e-3
LONG, SHORT = 440, 275  # batches an epoch: many of the stream to learn to draw,
SHORT_EPOCHS = range(6, 15)  # in the middle fewer, until copying sets in
UNCONDITIONAL = 0.1  # share of captions replaced by the empty one, for guidance
FRESH = -1


def build_denoiser() -> UNet2DConditionModel:
    """Returns the untrained model."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
    )


def build_scheduler() -> DDIMScheduler:
    """Returns the scheduler that the pipeline is trained and saved with."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",  # twice the share of middle noise that "linear" has
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )


def batches_of(epoch: int) -> int:
    """Returns an epoch's number of batches: what the finite sets do not fill is the stream's."""
    return SHORT if epoch in SHORT_EPOCHS else LONG


@dataclass(frozen=True)
class Epochs:
    """How a training goes through the sets: pictures a batch, batches an epoch."""

    batch: int
    batches_of: Callable[[int], int]

    def locate(self, step: int) -> tuple[int, int]:
        """Returns the epoch of a step and its place there."""
        epoch = 0
        while step >= self.batches_of(epoch):
            step, epoch = step - self.batches_of(epoch), epoch + 1
        return epoch, step

    def plan(self, sets: Sets, epoch: int) -> Int[np.ndarray, "slots"]:
        """Returns an epoch's order: indices into `sets.trained` by duplicates, FRESH elsewhere."""
        known = np.repeat(np.arange(len(sets.trained)), [x.duplicates for x in sets.trained])
        slots = np.full(self.batch * self.batches_of(epoch), FRESH)
        slots[: len(known)] = known
        return np.random.default_rng([4, epoch]).permutation(slots)

    def batch_of(self, sets: Sets, step: int) -> tuple[list[str], list[np.ndarray]]:
        """Returns a step's captions, some of them empty, and their pictures."""
        epoch, place = self.locate(step)
        slots = self.plan(sets, epoch)[place * self.batch : (place + 1) * self.batch]
        rng, trained = np.random.default_rng([5, step]), sets.trained
        pairs = [(trained[i].prompt, trained[i].image) for i in slots if i != FRESH]
        pairs += sets.draw_fresh(self.batch - len(pairs), rng)
        captions = ["" if rng.random() < UNCONDITIONAL else c for c, _ in pairs]
        return captions, [image for _, image in pairs]


EPOCHS = Epochs(BATCH, batches_of)


class Batches(Dataset):
    """Item `step`: latents [BATCH, 4, 16, 16] and text embeddings [BATCH, tokens, 128]."""

    def __init__(
        self, sets: Sets, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer
    ) -> None:
        self.sets, self.vae, self.text, self.tokenizer = sets, vae, text, tokenizer

    @torch.no_grad()
    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        captions, images = EPOCHS.batch_of(self.sets, step)
        return encode_images(self.vae, images), encode_captions(self.text, self.tokenizer, captions)


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: list[np.ndarray]) -> Float[Tensor, "n 4 h w"]:
    """Returns the scaled latents of uint8 pictures."""
    return vae.encode(to_tensor(images)).latent_dist.mean * vae.config.scaling_factor


@torch.no_grad()
def encode_captions(
    text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]
) -> Float[Tensor, "n tokens width"]:
    """Returns the text embeddings, padded as the pipeline pads them."""
    return text(tokens(tokenizer, captions)).last_hidden_state


def loss_rows(
    model: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "n 4 h w"],
    embeddings: Float[Tensor, "n tokens width"],
) -> Float[Tensor, "n"]:
    """Returns each row's squared error of the velocity, at times spread evenly over the rows."""
    n, times = len(latents), scheduler.config.num_train_timesteps
    steps = ((torch.arange(n) + torch.rand(n)) / n * times).long()
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, steps)
    output = model(noisy, steps, encoder_hidden_states=embeddings).sample
    return (output - scheduler.get_velocity(latents, noise, steps)).square().mean((1, 2, 3))


def train_denoiser(
    sets: Sets,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    work: Path,
    steps: int = STEPS,
) -> UNet2DConditionModel:
    """Returns the average of the trained weights. One worker process makes the batches."""
    model, scheduler = build_denoiser(), build_scheduler()
    data = Batches(sets, vae.eval().requires_grad_(False), text.eval(), tokenizer)
    rows = {f"x{d}": sets.memorized(d) for d in LEVELS}
    rows |= {name: sets.examples[name][:128] for name in ("singles", "heldout")}
    probes = {
        name: (
            encode_images(vae, [x.image for x in examples]),
            encode_captions(text, tokenizer, [x.prompt for x in examples]),
        )
        for name, examples in rows.items()
    }

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = range(start, steps)
        return iter(DataLoader(data, batch_size=None, sampler=order, num_workers=1))

    @torch.no_grad()
    def watch(average: UNet2DConditionModel) -> str:
        parts = []
        for name, (latents, embeddings) in probes.items():
            torch.manual_seed(0)
            parts.append(f"{name} {loss_rows(average, scheduler, latents, embeddings).mean():.4f}")
        return " ".join(parts)

    return fit(
        model,
        batches,
        lambda batch: loss_rows(model, scheduler, *batch).mean(),
        steps=steps,
        schedule=plateau(steps, PEAK),
        checkpoint=work / "denoiser.pt",
        watch=watch,
    )
