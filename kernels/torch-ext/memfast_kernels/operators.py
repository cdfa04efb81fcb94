"""The public operators: arguments are checked here, shapes flattened, results wrapped."""

from typing import Literal, overload

from torch import Tensor

from . import ops
from .activations import find
from .moments import Moments, join
from .shapes import check_tensor, counts, inner_neurons, segment_size


@overload
def geglu(
    projected: Tensor,
    *,
    activation: str = ...,
    gated: bool = ...,
    moments: Literal[False] = ...,
    segment_rows: int | None = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def geglu(
    projected: Tensor,
    *,
    activation: str = ...,
    gated: bool = ...,
    moments: Literal[True],
    segment_rows: int | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Moments]: ...
@overload
def geglu(
    projected: Tensor,
    *,
    activation: str = ...,
    gated: bool = ...,
    moments: bool,
    segment_rows: int | None = ...,
    backend: str | None = ...,
) -> Tensor | tuple[Tensor, Moments]: ...
def geglu(
    projected: Tensor,
    *,
    activation: str = "gelu",
    gated: bool = True,
    moments: bool = False,
    segment_rows: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Moments]:
    """H = value · act(gate) of projected [..., rows, 2·neurons], value first.

    Returns H [..., rows, neurons] in projected's dtype, and with `moments` also the statistics of
    H as stored, taken over all leading axes: one segment, or one for every `segment_rows`
    consecutive rows. gated=False gives act(projected) [..., rows, neurons]. Results in float16 and
    bfloat16 equal eager torch's bit by bit. Differentiable; the statistics are not.

    Raises ValueError or TypeError that lists the legal choices.
    """
    check_tensor("projected", projected)
    find(activation)
    neurons = inner_neurons("projected", projected.shape[-1], gated)
    rows = projected.flatten(0, -2)
    shape = (*projected.shape[:-1], neurons)
    if not moments:
        return ops.geglu(rows, activation, gated, backend or "").view(shape)
    size = segment_size(len(rows), segment_rows)
    hidden, *statistics = ops.geglu_moments(rows, activation, gated, size, backend or "")
    return hidden.view(shape), Moments(counts(len(rows), size, rows.device), *statistics)


@overload
def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    *,
    activation: str = ...,
    gated: bool = ...,
    moments: Literal[False] = ...,
    segment_rows: int | None = ...,
    exact: bool = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    *,
    activation: str = ...,
    gated: bool = ...,
    moments: Literal[True],
    segment_rows: int | None = ...,
    exact: bool = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Moments]: ...
@overload
def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    *,
    activation: str = ...,
    gated: bool = ...,
    moments: bool,
    segment_rows: int | None = ...,
    exact: bool = ...,
    backend: str | None = ...,
) -> Tensor | tuple[Tensor, Moments]: ...
def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "gelu",
    gated: bool = True,
    moments: bool = False,
    segment_rows: int | None = None,
    exact: bool = True,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Moments]:
    """`geglu` of the projection x·weightᵀ + bias, without storing the projection on a GPU.

    x [..., rows, channels], weight [2·neurons, channels], bias [2·neurons] (neurons rows each
    where gated=False), all of one dtype. exact=False allows a GPU the polynomial erfc, which is
    faster and off by at most 1.5e-7 before rounding. The rest is as in `geglu`.
    """
    check_tensor("x", x)
    check_tensor("weight", weight, 2)
    if bias is not None:
        check_tensor("bias", bias, 1)
    find(activation)
    neurons = inner_neurons("weight", len(weight), gated)
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight: {weight.shape[1]} channels, but x has {x.shape[-1]}")
    if bias is not None and len(bias) != len(weight):
        raise ValueError(f"bias: {len(bias)} features, but weight has {len(weight)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"{name}: {tensor.dtype}, but x is {x.dtype}")
    rows = x.flatten(0, -2)
    shape = (*x.shape[:-1], neurons)
    settings = (activation, gated, exact)
    if not moments:
        return ops.geglu_linear(rows, weight, bias, *settings, backend or "").view(shape)
    size = segment_size(len(rows), segment_rows)
    hidden, *statistics = ops.geglu_linear_moments(
        rows, weight, bias, *settings, size, backend or ""
    )
    return hidden.view(shape), Moments(counts(len(rows), size, rows.device), *statistics)


def column_moments(
    activation: Tensor,
    *,
    row_weight: Tensor | None = None,
    segment_rows: int | None = None,
    backend: str | None = None,
) -> Moments:
    """Statistics of every column of activation [..., rows, neurons], by segments of rows.

    row_weight [..., rows] multiplies each row before anything is counted: with 1/‖row‖ the
    `l2_norm` of the result is the row-normalised norm of ConceptPrune (arXiv 2406.18566).
    """
    check_tensor("activation", activation)
    rows = activation.detach().flatten(0, -2)
    if row_weight is not None:
        check_tensor("row_weight", row_weight, activation.ndim - 1)
        if row_weight.shape != activation.shape[:-1]:
            expected = tuple(activation.shape[:-1])
            raise ValueError(f"row_weight: shape {tuple(row_weight.shape)}; expected {expected}")
        row_weight = row_weight.detach().flatten()
    size = segment_size(len(rows), segment_rows)
    statistics = ops.column_moments(rows, row_weight, size, backend or "")
    return Moments(counts(len(rows), size, rows.device), *statistics)


def merge(a: Moments, b: Moments) -> Moments:
    """Statistics of the rows of both, segment by segment: Chan's formula in float64."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"merge: shapes {tuple(a.mean.shape)} and {tuple(b.mean.shape)} differ")
    if a.mean.device.type == "cpu":
        return join(a, b)
    fields = ("count", "mean", "m2", "max_abs", "nonzero")
    statistics = ops.merge([getattr(a, f) for f in fields], [getattr(b, f) for f in fields])
    return Moments(a.count + b.count, *statistics)
