"""Probes: where on the way from noise to picture the denoiser is looked at. Add one to PROBES.

All prompts share their noises, so whatever no prompt has touched (the unconditional prediction at
pure noise) is computed once a run, and differences between prompts are due to the prompts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from memfast_kernels import Moments
from torch import Tensor

from memfast.auditing.settings import Settings
from memfast.models.denoising import Denoiser
from memfast.models.tracing import Trace

Latents = Float[Tensor, "rows channels height width"]


@dataclass(frozen=True)
class Prediction:
    """The clean latents and the noise that the denoiser takes noisy latents apart into."""

    clean: Latents
    noise: Latents

    def guided(self, empty: "Prediction", scale: float) -> "Prediction":
        """Classifier-free guidance: away from the prediction without a prompt."""
        return Prediction(
            empty.clean + scale * (self.clean - empty.clean),
            empty.noise + scale * (self.noise - empty.noise),
        )


@dataclass(frozen=True)
class Look:
    """What the denoiser showed of some prompts at one noise level.

    empty: its prediction without a prompt, where the probe asks for it. moments: of every
    feed-forward site, one segment a prompt, in the pass with the prompts.
    """

    prediction: Prediction
    empty: Prediction | None
    moments: dict[str, Moments]

    @property
    def norms(self) -> Float64[Tensor, "rows neurons"]:
        """L2 norm over tokens of every neuron, all sites side by side."""
        return torch.cat([moments.l2_norm for moments in self.moments.values()], dim=1)


class Scene:
    """One noise that all prompts share, and the prediction without a prompt at that pure noise."""

    def __init__(
        self, denoiser: Denoiser, traced: Trace, noise: Latents, settings: Settings
    ) -> None:
        self.denoiser, self.traced, self.settings = denoiser, traced, settings
        denoiser.scheduler.set_timesteps(settings.num_inference_steps)
        self.schedule = [int(timestep) for timestep in denoiser.scheduler.timesteps]
        self.middle = round(settings.middle * denoiser.training_steps)
        self.noise = noise
        self.no_prompt = denoiser.encode([""])
        self.empty, _ = self._predict(noise, self.schedule[0], self.no_prompt)

    def first(self, embeddings: Tensor) -> Look:
        """The look at pure noise, with and without the prompts: one row each."""
        latents = self.noise.expand(len(embeddings), -1, -1, -1).contiguous()
        prediction, moments = self._predict(latents, self.schedule[0], embeddings)
        return Look(prediction, self.empty, moments)

    def look(self, latents: Latents, timestep: int, embeddings: Tensor) -> Look:
        """A look with the prompts alone: one row each."""
        prediction, moments = self._predict(latents, timestep, embeddings)
        return Look(prediction, None, moments)

    def both(self, latents: Latents, timestep: int, embeddings: Tensor) -> Look:
        """A look with and without the prompts: two rows each."""
        empty, _ = self._predict(latents, timestep, self.no_prompt.expand_as(embeddings))
        prediction, moments = self._predict(latents, timestep, embeddings)
        return Look(prediction, empty, moments)

    def step(self, prediction: Prediction, timestep: int) -> Latents:
        """A deterministic (DDIM) step to `timestep`, of any length."""
        return self.denoiser.add_noise(prediction.clean, prediction.noise, timestep)

    def _predict(
        self, latents: Latents, timestep: int, embeddings: Tensor
    ) -> tuple[Prediction, dict[str, Moments]]:
        output = self.denoiser.predict(latents, timestep, embeddings)
        clean = self.denoiser.clean(output, latents, timestep)
        noise = self.denoiser.epsilon(output, latents, timestep)
        return Prediction(clean, noise), self.traced.drain()


def first(scene: Scene, embeddings: Tensor) -> list[Look]:
    """Pure noise only."""
    return [scene.first(embeddings)]


def settle(scene: Scene, embeddings: Tensor) -> list[Look]:
    """Pure noise, then one large unguided step to the middle noise level, prompts only."""
    start = scene.first(embeddings)
    latents = scene.step(start.prediction, scene.middle)
    return [start, scene.look(latents, scene.middle, embeddings)]


def jump(scene: Scene, embeddings: Tensor) -> list[Look]:
    """As `settle`, and at the middle noise level without the prompts too."""
    start = scene.first(embeddings)
    latents = scene.step(start.prediction, scene.middle)
    return [start, scene.both(latents, scene.middle, embeddings)]


def walk(scene: Scene, embeddings: Tensor) -> list[Look]:
    """The first steps of the schedule, with classifier-free guidance."""
    looks = [scene.first(embeddings)]
    for timestep in scene.schedule[1 : scene.settings.walk_steps]:
        last = looks[-1]
        guided = last.prediction.guided(last.empty or scene.empty, scene.settings.guidance_scale)
        looks.append(scene.both(scene.step(guided, timestep), timestep, embeddings))
    return looks


@dataclass(frozen=True)
class Probe:
    """A probe; how many looks it takes, and the denoiser rows a prompt and noise that they cost."""

    looks: Callable[[Scene, Tensor], list[Look]]
    looks_made: Callable[[Settings], int]
    rows: Callable[[Settings], int]


PROBES: dict[str, Probe] = {
    "first": Probe(first, lambda settings: 1, lambda settings: 1),
    "settle": Probe(settle, lambda settings: 2, lambda settings: 2),
    "jump": Probe(jump, lambda settings: 2, lambda settings: 3),
    "walk": Probe(walk, lambda s: s.walk_steps, lambda s: 2 * s.walk_steps - 1),
}
