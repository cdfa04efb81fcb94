"""Column statistics of an activation, and the one formula that joins them.

A running state of many calls needs integer counts and float64 moments: float32 drifts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass


@dataclass(frozen=True)
class Moments:
    """Statistics of every neuron over the rows of every segment (one image's tokens, say).

    count: int64 [segments], rows seen; mean: float64 [segments, neurons]; m2: float64
    [segments, neurons], the sum of squared deviations from the mean; max_abs: float32
    [segments, neurons]; nonzero: int64 [segments, neurons]. NaN and infinities of the
    activation show: the column's mean and m2 are then not finite.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    max_abs: Tensor
    nonzero: Tensor

    @property
    def variance(self) -> Tensor:
        """Population variance, float64 [segments, neurons]; 0 where no row was seen."""
        return self.m2 / self.count.clamp(min=1)[:, None]

    @property
    def l2_norm(self) -> Tensor:
        """sqrt(sum over rows of H²) = sqrt(m2 + n·mean²), float64 [segments, neurons]."""
        return (self.m2 + self.count[:, None] * self.mean.square()).sqrt()

    @classmethod
    def empty(cls, segments: int, neurons: int, device: torch.device | str = "cpu") -> "Moments":
        """The statistics of no rows: `merge(empty, a)` equals `a`."""
        shape = (segments, neurons)
        return cls(
            count=torch.zeros(segments, dtype=torch.int64, device=device),
            mean=torch.zeros(shape, dtype=torch.float64, device=device),
            m2=torch.zeros(shape, dtype=torch.float64, device=device),
            max_abs=torch.zeros(shape, dtype=torch.float32, device=device),
            nonzero=torch.zeros(shape, dtype=torch.int64, device=device),
        )

    def select(self, index: slice | Tensor) -> "Moments":
        """The segments at `index` (a slice, an index list or a mask)."""
        return Moments(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def cat(cls, parts: Sequence["Moments"]) -> "Moments":
        """The segments of all parts, one after another."""
        return cls(*(torch.cat([getattr(p, field.name) for p in parts]) for field in fields(cls)))

    def pool(self) -> "Moments":
        """All segments joined into one: shapes [1] and [1, neurons]."""
        if len(self.count) == 0:
            return Moments.empty(1, self.mean.shape[1], self.mean.device)
        count, rows = self.count.sum(0, keepdim=True), self.count[:, None].double()
        mean = (rows / count.clamp(min=1) * self.mean).sum(0, keepdim=True)
        apart = torch.where(rows > 0, self.mean - mean, 0.0)
        return Moments(
            count=count,
            mean=mean,
            m2=(self.m2 + rows * apart.square()).sum(0, keepdim=True),
            max_abs=self.max_abs.amax(0, keepdim=True),
            nonzero=self.nonzero.sum(0, keepdim=True),
        )

    def to(self, device: torch.device | str) -> "Moments":
        """The same statistics on another device."""
        return Moments(*(getattr(self, field.name).to(device) for field in fields(self)))


register_dataclass(Moments)


def join(a: Moments, b: Moments) -> Moments:
    """Statistics of the rows of both (Chan, Golub & LeVeque 1979, the delta form).

    Fields may carry further leading axes. An empty side leaves the other unchanged, bit by bit.
    """
    n_a, n_b = a.count[..., None], b.count[..., None]
    share = n_b.double() / (n_a + n_b).clamp(min=1)  # integers alone would divide in float32
    delta = torch.where((n_a > 0) & (n_b > 0), b.mean - a.mean, 0.0)
    return Moments(
        count=a.count + b.count,
        mean=torch.where(n_a > 0, a.mean, b.mean) + delta * share,
        m2=a.m2 + b.m2 + delta.square() * (n_a * share),
        max_abs=torch.maximum(a.max_abs, b.max_abs),
        nonzero=a.nonzero + b.nonzero,
    )
