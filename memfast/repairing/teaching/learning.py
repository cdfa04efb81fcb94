"""A step's gradients: one forward pass of each model, in as many portions as memory asks for."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from memfast.blocks.sizes import parameters
from memfast.memory.portions import Portion
from memfast.memory.replaying import Replayed
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.fitting import SMALL
from memfast.precision import Gradients, wide
from memfast.repairing.teaching.features import Outputs, distance
from memfast.repairing.teaching.objectives import Drawn

LARGEST_GRADIENT = 1.0  # norm to which a step's gradient is clipped
Slopes = tuple[Tensor | None, ...]


class Learning:
    """What a step of teaching changes the weights by.

    Where not all rows fit at once, activations are computed again in the backward pass instead of
    being kept; where that is not enough, gradients of portions are added up. features: the weight
    of what blocks return, beside the output.
    """

    told: tuple[Conditioning, Conditioning]  # of the rows in work: given and wanted
    shared: tuple[Any, Any] | None = None  # what they have besides tensors: for good, if replayed

    def __init__(
        self, student: Driver, original: Driver, features: float = 0.0, graphs: bool = True
    ):
        self.student, self.original, self.features = student, original, features
        self.model: Any = student.model
        self.parameters: list[nn.Parameter] = list(student.model.parameters())
        self.gradients = Gradients(student.model)
        self.fitting: Portion | None = None
        small = parameters(student.model) < SMALL  # its kernels take less time than their launch
        self.replayed = Replayed(self._learnt, on=graphs and small and self.gradients.scale == 1)

    def __call__(self, drawn: Drawn, weights: Mapping[str, float]) -> tuple[Tensor, Slopes]:
        """Each row's error, and the gradients of the weighted sum of the objectives' means."""
        shares = torch.cat([torch.full((n,), weights[k] / n) for k, n in drawn.sizes.items()])
        shared = drawn.given.shared, drawn.wanted.shared
        self.shared = self.shared or shared
        alike = all(now is first for now, first in zip(shared, self.shared, strict=True))
        plain = alike and self.student.calls_of(drawn.times, drawn.given) is None

        def part(rows: slice) -> tuple[Tensor, Slopes]:
            asked = self._asked(drawn, shares, rows)
            whole = len(asked[0]) == len(drawn) and fitting.rows >= len(drawn)
            return self.replayed(*asked) if whole and plain else self._learnt(*asked)

        fitting = self._portion(len(drawn))
        found, gradients = zip(*fitting.over(len(drawn), part), strict=True)
        return torch.cat(found), tuple(map(_added, zip(*gradients, strict=True)))

    def _asked(self, drawn: Drawn, shares: Tensor, rows: slice) -> list[Tensor]:
        """What both models are asked, as tensors alone; `told` has the rest of it."""
        clean, noise, times = drawn.clean[rows], drawn.noise[rows], drawn.times[rows]
        path = self.student.path
        noisy, exact = path.add(clean, noise, times), wide(path.target(clean, noise, times))
        of_data = drawn.of_data[rows].to(exact.device)
        self.told = drawn.given[rows], drawn.wanted[rows]
        leaves = [leaf for told in self.told for leaf in told.leaves.values()]
        return [noisy, times, exact, of_data, shares[rows].to(exact), *leaves]

    def _learnt(
        self,
        noisy: Tensor,
        times: Tensor,
        exact: Tensor,
        of_data: Tensor,
        shares: Tensor,
        *leaves: Tensor,
    ) -> tuple[Tensor, Slopes]:
        """Each row's mean squared error, and the gradients of their sum by share."""
        given, wanted = self.told
        count = len(given.leaves)
        given = given.told(dict(zip(given.leaves, leaves[:count], strict=True)))
        wanted = wanted.told(dict(zip(wanted.leaves, leaves[count:], strict=True)))
        on = self.features > 0
        with torch.no_grad(), Outputs(self.original.model, on) as theirs:
            taught = wide(self.original.predict(noisy, times, wanted))
        with torch.enable_grad():
            with Outputs(self.model, on) as ours:
                output = wide(self.student.predict(noisy, times, given))
            data = of_data.view(-1, *(1,) * (exact.ndim - 1))
            found = (output - torch.where(data, exact, taught)).square().flatten(1).mean(1)
            loss = (found * shares).sum()
            if on:
                apart = distance(ours.found, theirs.found, len(noisy)).masked_fill(of_data, 0)
                loss = loss + self.features * (apart * shares).sum()
            gradients = self.gradients.of(loss, self.parameters, allow_unused=True)
        return found.detach(), gradients

    def _portion(self, rows: int) -> Portion:
        if self.fitting is None:
            self.fitting = self.student.portion(rows, gradients=True)
        recomputes = getattr(self.model, "is_gradient_checkpointing", None)
        if self.fitting.rows < rows and recomputes is False:
            self.model.enable_gradient_checkpointing()
            self.fitting = self.student.portion(rows, gradients=True, checkpointing=True)
        return self.fitting


def _added(gradients: Slopes) -> Tensor | None:
    given = [gradient for gradient in gradients if gradient is not None]
    return reduce(torch.add, given) if given else None


def clip(gradients: Slopes) -> Tensor:
    """Scale the gradients down, in place, to the largest norm; returns the norm that they had."""
    given = [gradient for gradient in gradients if gradient is not None]
    norm = torch.stack(torch._foreach_norm([each.float() for each in given])).norm()
    scale = (LARGEST_GRADIENT / norm.clamp(min=1e-12)).clamp(max=1.0)
    torch._foreach_mul_(given, scale)
    return norm
