"""From noise to a clean image: what a time means, and what a denoiser's output stands for.

A time is the scheduler's own value (1 to 1000 for Stable Diffusion, as for rectified flow). A level
in [0, 1] is a share of the whole way: 1 is pure noise.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.errors import InputError

Latents = Float[Tensor, "rows ..."]
Times = int | float | Tensor  # one, or one a row


@runtime_checkable
class NoisePath(Protocol):
    """How noise is added, and how an output is read. All but `times` are differentiable."""

    training_steps: int

    def time_of(self, level: float) -> int | float:
        """The time of a level."""
        ...

    def at_share(self, share: Float[Tensor, " rows"]) -> Tensor:
        """The time at a share in [0, 1) of the times that training draws from."""
        ...

    def drawn(self, rows: int, source: torch.Generator) -> Tensor:
        """Random times, as training draws them."""
        ...

    def add(self, clean: Latents, noise: Latents, time: Times) -> Latents:
        """Noisy latents."""
        ...

    def clean(self, output: Latents, latents: Latents, time: Times) -> Latents:
        """The clean latents that an output stands for."""
        ...

    def noise(self, output: Latents, latents: Latents, time: Times) -> Latents:
        """The noise that an output stands for."""
        ...

    def target(self, clean: Latents, noise: Latents, time: Times) -> Latents:
        """What the output should have been."""
        ...


def path_of(scheduler: Any) -> NoisePath:
    """The path that a scheduler's model was trained on."""
    config = scheduler.config
    flow = "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas", False)
    if flow or config.get("prediction_type") == "flow_prediction":
        return RectifiedFlow(scheduler)
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise InputError(
            f"scheduler {type(scheduler).__name__}: neither rectified flow nor one with "
            "alphas_cumprod; give the pipeline the scheduler that its model was trained with"
        )
    return AlphaBar(scheduler)


class AlphaBar:
    """Variance preserving: sqrt(alpha-bar) · clean + sqrt(1 - alpha-bar) · noise (DDPM)."""

    def __init__(self, scheduler: Any):
        self.training_steps: int = scheduler.config.num_train_timesteps
        self.products: Tensor = scheduler.alphas_cumprod.float()
        self.prediction: str = scheduler.config.prediction_type

    def time_of(self, level: float) -> int:
        return round(level * self.training_steps)

    def at_share(self, share: Float[Tensor, " rows"]) -> Tensor:
        return (share * (self.training_steps - 1)).long() + 1

    def drawn(self, rows: int, source: torch.Generator) -> Tensor:
        return torch.randint(1, self.training_steps, (rows,), generator=source)

    def add(self, clean: Latents, noise: Latents, time: Times) -> Latents:
        alpha, sigma = self._alpha_sigma(time, clean)
        return alpha * clean + sigma * noise

    def clean(self, output: Latents, latents: Latents, time: Times) -> Latents:
        alpha, sigma = self._alpha_sigma(time, latents)
        match self.prediction:
            case "epsilon":
                return (latents - sigma * output) / alpha
            case "v_prediction":
                return alpha * latents - sigma * output
            case _:
                return output

    def noise(self, output: Latents, latents: Latents, time: Times) -> Latents:
        alpha, sigma = self._alpha_sigma(time, latents)
        match self.prediction:
            case "epsilon":
                return output
            case "v_prediction":
                return alpha * output + sigma * latents
            case _:
                return (latents - alpha * output) / sigma

    def target(self, clean: Latents, noise: Latents, time: Times) -> Latents:
        alpha, sigma = self._alpha_sigma(time, clean)
        match self.prediction:
            case "epsilon":
                return noise
            case "v_prediction":
                return alpha * noise - sigma * clean
            case _:
                return clean

    def _alpha_sigma(self, time: Times, like: Latents) -> tuple[Tensor, Tensor]:
        """sqrt(alpha-bar) and sqrt(1 - alpha-bar), shaped to scale latents."""
        self.products = self.products.to(like.device)
        place = time.to(like.device).long() if isinstance(time, Tensor) else int(time)
        product = self.products[place].reshape(-1, *(1,) * (like.ndim - 1))
        return product.sqrt().to(like.dtype), (1 - product).sqrt().to(like.dtype)


class RectifiedFlow:
    """(1 - level) · clean + level · noise; the output is noise - clean (arXiv 2209.03003)."""

    def __init__(self, scheduler: Any):
        self.training_steps: int = scheduler.config.num_train_timesteps

    def time_of(self, level: float) -> float:
        return level * self.training_steps

    def at_share(self, share: Float[Tensor, " rows"]) -> Tensor:
        return share * (self.training_steps - 1) + 1

    def drawn(self, rows: int, source: torch.Generator) -> Tensor:
        return self.at_share(torch.rand(rows, generator=source))

    def add(self, clean: Latents, noise: Latents, time: Times) -> Latents:
        level = self._level(time, clean)
        return (1 - level) * clean + level * noise

    def clean(self, output: Latents, latents: Latents, time: Times) -> Latents:
        return latents - self._level(time, latents) * output

    def noise(self, output: Latents, latents: Latents, time: Times) -> Latents:
        return latents + (1 - self._level(time, latents)) * output

    def target(self, clean: Latents, noise: Latents, time: Times) -> Latents:
        return noise - clean

    def _level(self, time: Times, like: Latents) -> Tensor:
        share = _on(like.device, time) / self.training_steps
        return self.level_at(share).reshape(-1, *(1,) * (like.ndim - 1)).to(like.dtype)

    def level_at(self, share: Tensor) -> Tensor:
        """The level at a time, as a share of all times."""
        return share


class Shifted(RectifiedFlow):
    """A denoiser that is told times before their shift: level = s·t / (1 + (s - 1)·t)."""

    def __init__(self, scheduler: Any, shift: float):
        super().__init__(scheduler)
        self.shift = shift

    def time_of(self, level: float) -> float:
        return level / (self.shift - (self.shift - 1) * level) * self.training_steps

    def level_at(self, share: Tensor) -> Tensor:
        return self.shift * share / (1 + (self.shift - 1) * share)


def several(times: Times, rows: int, device: torch.device | str) -> Float[Tensor, " rows"]:
    """One time a row, float32."""
    return _on(device, times).expand(rows)


def _on(device: torch.device | str, times: Times) -> Tensor:
    """In float32; a number is written there, which waits for nothing, as a copy would."""
    if isinstance(times, Tensor):
        return times.to(device, torch.float32)
    return torch.full((), float(times), device=device, dtype=torch.float32)


def as_scalar(times: Times, device: torch.device | str) -> Tensor:
    """A number as diffusers' UNets would make a tensor of it, but written on the device, which
    waits for nothing; tensors as they are."""
    if isinstance(times, Tensor):
        return times
    wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
    dtype = torch.int64 if isinstance(times, int) else wide
    return torch.full((), times, dtype=dtype, device=device)
