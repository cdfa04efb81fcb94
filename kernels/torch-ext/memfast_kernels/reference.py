"""Backend `reference`: float64 throughout, rounded once at the end; any device. The truth.

A device without float64 computes H in float32; its statistics are taken on the CPU.
"""

from torch import Tensor, float32, float64
from torch.nn.functional import linear

from .activations import find
from .moments import Moments
from .moments import join as merge
from .shapes import counts, statistics_device, widest

__all__ = ["column_moments", "geglu", "geglu_linear", "merge"]


def column_moments(
    activation: Tensor, row_weight: Tensor | None, row_normalised: bool, segment_rows: int
) -> Moments:
    activation = activation.to(statistics_device(activation.device))
    rows, neurons = activation.shape
    count = counts(rows, segment_rows, activation.device)
    values = activation.to(float64)
    if row_weight is not None:
        values = values * row_weight.to(values)[:, None]
    if row_normalised:
        values = values / values.norm(dim=1, keepdim=True).clamp(min=1e-12)
    values = values.view(len(count), segment_rows, neurons)
    if segment_rows == 0:
        return Moments.empty(len(count), neurons, activation.device)
    mean = values.mean(1)
    return Moments(
        count=count,
        mean=mean,
        m2=(values - mean[:, None]).square().sum(1),
        max_abs=values.abs().amax(1).to(float32),
        nonzero=(values != 0).sum(1),
    )


def geglu(
    projected: Tensor, activation: str, gated: bool, segment_rows: int | None
) -> tuple[Tensor, Moments | None]:
    hidden = _gate(projected.to(widest(projected.device)), activation, gated).to(projected.dtype)
    return hidden, None if segment_rows is None else column_moments(
        hidden, None, False, segment_rows
    )


def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int | None,
) -> tuple[Tensor, Moments | None]:
    wide = widest(x.device)
    projected = linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    hidden = _gate(projected, activation, gated).to(x.dtype)
    return hidden, None if segment_rows is None else column_moments(
        hidden, None, False, segment_rows
    )


def _gate(projected: Tensor, activation: str, gated: bool) -> Tensor:
    forward = find(activation).forward
    if not gated:
        return forward(projected)
    value, gate = projected.chunk(2, dim=-1)
    return value * forward(gate)
