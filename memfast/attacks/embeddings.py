"""Adversarial embeddings: does the model still hold an image that its prompt no longer brings?

The attacker knows the training image and the weights, and searches a text embedding that denoises
towards the image. Source: Dori (Adam at 0.1, 50 steps, 8 draws of noise and timestep a step, from
three initialisations). Non-memorized images give way as well after more than 500 steps, so an
attack's rate means nothing without the same attack on images that the model does not memorize.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.pipelines.noise import generator

if TYPE_CHECKING:
    from memfast.pipelines.denoising import Denoiser

Embeddings = Float[Tensor, "images tokens features"]
Latents = Float[Tensor, "images channels height width"]


@dataclass(frozen=True, slots=True)
class AttackSettings:
    """steps: after how many the embedding is judged, ascending. draws: of noise and timestep a
    step. seed: of those draws. batch: images attacked together, which changes no result beyond
    rounding."""

    steps: tuple[int, ...] = (50,)
    learning_rate: float = 0.1
    draws: int = 8
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
            raise ValueError(f"steps: ascending numbers from 1, got {self.steps}")


def from_prompt(denoiser: "Denoiser", ids: Sequence[str], texts: Sequence[str], _: int) -> Tensor:
    """The prompt's own embedding."""
    return denoiser.encode(list(texts))


def from_noise(denoiser: "Denoiser", ids: Sequence[str], texts: Sequence[str], seed: int) -> Tensor:
    """N(0, I), an image's own by its id and the seed."""
    like = denoiser.encode([""])[0]
    noise = [torch.randn(like.shape, generator=generator(f"{i}/start", seed)) for i in ids]
    return torch.stack(noise).to(like)


def from_another(
    denoiser: "Denoiser", ids: Sequence[str], texts: Sequence[str], seed: int
) -> Tensor:
    """Another prompt's embedding: the caption half the list further on."""
    shift = max(1, len(texts) // 2)
    return denoiser.encode([texts[(k + shift + seed) % len(texts)] for k in range(len(texts))])


Start = Callable[["Denoiser", Sequence[str], Sequence[str], int], Tensor]
STARTS: Mapping[str, Start] = {
    "prompt": from_prompt,
    "noise": from_noise,
    "another": from_another,
}


def find_embeddings(
    denoiser: "Denoiser",
    clean: Latents,
    start: Embeddings,
    ids: Sequence[str],
    settings: AttackSettings | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[int, Embeddings]:
    """The embeddings found after each number of steps: {steps: [images, tokens, width]}.

    clean: the latents of the images sought; start: where each search begins. Images are
    independent: each has its own draws (by its id and the seed) and, since Adam works element by
    element and the losses add up, its own optimiser state. No gradient reaches the model.
    `progress` is told the images of each finished step.
    """
    settings = settings or AttackSettings()
    parts: list[dict[int, Tensor]] = []
    for first in range(0, len(ids), settings.batch):
        part = slice(first, first + settings.batch)
        parts.append(_search(denoiser, clean[part], start[part], ids[part], settings, progress))
    return {steps: torch.cat([part[steps] for part in parts]) for steps in settings.steps}


def _search(
    denoiser: "Denoiser",
    clean: Tensor,
    start: Tensor,
    ids: Sequence[str],
    settings: AttackSettings,
    progress: Callable[[int], None] | None,
) -> dict[int, Tensor]:
    full = torch.promote_types(start.dtype, torch.float32)  # Adam's epsilon is 0 in half precision
    embedding = start.detach().to(full, copy=True).requires_grad_()
    optimiser = torch.optim.Adam([embedding], lr=settings.learning_rate)
    sources = [generator(name, settings.seed) for name in ids]
    targets = clean.repeat_interleave(settings.draws, 0)
    found = {}
    for step in range(1, settings.steps[-1] + 1):
        noise, timesteps = _draw(denoiser, clean, sources, settings.draws)
        rows = embedding.to(start.dtype).repeat_interleave(settings.draws, 0)
        loss = denoiser.loss(targets, rows, noise, timesteps).to(full).sum() / settings.draws
        (embedding.grad,) = torch.autograd.grad(loss, embedding)
        optimiser.step()
        if step in settings.steps:
            found[step] = embedding.detach().to(start.dtype, copy=True)
        if progress:
            progress(len(ids))
    return found


def _draw(
    denoiser: "Denoiser", clean: Tensor, sources: Sequence[torch.Generator], draws: int
) -> tuple[Tensor, Tensor]:
    """For every image its own next noise [images * draws, ...] and timesteps [images * draws]."""
    shape, last = (draws, *clean.shape[1:]), denoiser.training_steps
    noise = torch.cat([torch.randn(shape, generator=source) for source in sources])
    times = torch.cat([torch.randint(1, last, (draws,), generator=source) for source in sources])
    return noise.to(clean), times.to(clean.device)
