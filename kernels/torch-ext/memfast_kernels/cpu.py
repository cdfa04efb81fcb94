"""Backend `cpu`: plain torch on row blocks small enough to stay in cache."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from .activations import find
from .moments import Moments, fold
from .shapes import counts

BLOCK_BYTES = 512 * 1024


def column_moments(activation: Tensor, row_weight: Tensor | None, segment_rows: int) -> Moments:
    rows, neurons = activation.shape
    count = counts(rows, segment_rows, activation.device)
    if rows == 0:
        return Moments.empty(len(count), neurons)
    dtype = torch.promote_types(activation.dtype, torch.float32)
    values = activation.to(dtype)
    if row_weight is not None:
        values = values * row_weight.to(dtype)[:, None]
    return _moments(values.view(len(count), segment_rows, neurons))


def _moments(values: Tensor) -> Moments:
    segments, rows, _ = values.shape
    shift = values[:, :1]
    deviation = (values - shift).double()
    mean = deviation.mean(1)
    return Moments(
        count=torch.full((segments,), rows),
        mean=mean + shift[:, 0],
        m2=(deviation - mean[:, None]).square().sum(1),
        max_abs=values.abs().amax(1).float(),
        nonzero=(values != 0).sum(1),
    )


def geglu(
    projected: Tensor, activation: str, gated: bool, segment_rows: int | None
) -> tuple[Tensor, Moments | None]:
    forward = find(activation).forward
    if gated:
        value, gate = projected.chunk(2, dim=-1)
        hidden = value * forward(gate)
    else:
        hidden = forward(projected)
    return hidden, None if segment_rows is None else column_moments(hidden, None, segment_rows)


def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int | None,
) -> tuple[Tensor, Moments | None]:
    return geglu(linear(x, weight, bias), activation, gated, segment_rows)
