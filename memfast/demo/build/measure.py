"""What the card states of a pipeline: its pictures, Wen's statistic, copies and losses."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from memfast.demo.build.data.sets import Example
from memfast.measuring.similarity import METRICS, Comparison
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver

INFERENCE_STEPS, GUIDANCE = 20, 2.0
TIMES = 20  # noise levels of a loss

Pictures = Float[Tensor, "n 3 32 32"]


def pixels(examples: list[Example]) -> Pictures:
    """Returns the examples' own pictures in [0, 1]."""
    images = np.stack([x.image for x in examples])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def generate(
    driver: Driver,
    examples: list[Example],
    seed: int = 0,
    *,
    guidance: float = GUIDANCE,
    steps: int = INFERENCE_STEPS,
    batch: int = 50,
) -> tuple[Pictures, Float[Tensor, "n steps"]]:
    """Returns pictures in [0, 1] and, for each step, the norm of the conditional minus the
    unconditional prediction (Wen et al. 2024, arXiv 2407.21720)."""
    pictures, norms, scheduler = [], [], driver.scheduler
    for i in range(0, len(examples), batch):
        chunk = examples[i : i + batch]
        latents = driver.initial_noise([x.id for x in chunk], seed)
        text = driver.encode([x.prompt for x in chunk])
        both = Conditioning.cat([driver.no_prompt.expand(len(text)), text])
        scheduler.set_timesteps(steps)
        rows = []
        for t in scheduler.timesteps:
            without, given = driver.predict(torch.cat([latents] * 2), t, both).chunk(2)
            rows.append((given - without).flatten(1).norm(dim=1))
            latents = scheduler.step(without + guidance * (given - without), t, latents)[0]
        pictures.append(driver.decode(latents))
        norms.append(torch.stack(rows, 1))
    return torch.cat(pictures), torch.cat(norms)


def likeness(
    pictures: Pictures, own: Pictures, corpus: Float[Tensor, "m 3 32 32"]
) -> tuple[dict[str, Float[Tensor, "n"]], Float[Tensor, "n"]]:
    """Returns the L2 ratio and the SSIM of pictures to their own training pictures, and 1 where
    both call it a copy."""
    pair = Comparison(pictures, own, corpus)
    scores = {name: METRICS[name].score(pair, None) for name in ("l2_ratio", "ssim")}
    agreed = [METRICS[name].copies(x) for name, x in scores.items()]
    return scores, (agreed[0] & agreed[1]).float()


def auc(positive: Float[Tensor, "p"], negative: Float[Tensor, "q"]) -> float:
    """Returns the probability that a positive exceeds a negative, ties counting half."""
    gap = positive[:, None] - negative[None]
    return float(((gap > 0).double() + 0.5 * (gap == 0)).mean())


@torch.no_grad()
def loss(driver: Driver, examples: list[Example]) -> float:
    """Returns the mean denoising loss over TIMES evenly spaced noise levels, at fixed noise."""
    clean = driver.encode_images(pixels(examples))
    text = driver.encode([x.prompt for x in examples])
    noise = driver.initial_noise([x.id for x in examples], 0)
    total = driver.path.training_steps
    levels = [int(total * (i + 0.5) / TIMES) for i in range(TIMES)]
    return float(torch.stack([driver.loss(clean, text, noise, t).mean() for t in levels]).mean())
