"""An exponential moving average of weights: what training settles on, without its last noise."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's parameters over its steps; the parameters themselves for decay 0.

    decay: what a step keeps of the average, less at first: (1 + step) / (10 + step) at most, so
    that where training began soon fades.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.values = [p.detach().clone() for p in parameters] if decay else []

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Count the parameters as they are after a step."""
        if self.decay:
            kept = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the model has the average; afterwards its own weights again."""
        own = [p.detach().clone() for p in self.parameters]
        self.put()
        try:
            yield
        finally:
            assign(self.parameters, own)

    def put(self) -> None:
        """Give the model the average."""
        if self.decay:
            assign(self.parameters, self.values)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {str(place): value.clone() for place, value in enumerate(self.values)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.values = [state[str(n)].to(value) for n, value in enumerate(self.values)]


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Set parameters in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
