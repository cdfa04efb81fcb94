"""The public operators: arguments are checked here, shapes flattened, results wrapped."""

from typing import Literal, overload

from torch import Tensor

from . import ops
from .activations import find
from .backends import load
from .eager import straight
from .moments import Moments, join
from .shapes import check_tensor, counts, inner_neurons, segment_size
from .weights import Prepared


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
    consecutive rows. gated=False gives act(projected) [..., rows, neurons]. On a CPU the bits are
    eager torch's; on a GPU its order of operations and roundings, with an error to float64 at most
    twice eager's own. Differentiable; the statistics are not.

    Raises ValueError or TypeError that lists the legal choices.
    """
    check_tensor("projected", projected)
    find(activation)
    neurons = inner_neurons("projected", projected.shape[-1], gated)
    rows = _rows(projected)
    shape = (*projected.shape[:-1], neurons)
    size = segment_size(rows.shape[0], segment_rows) if moments else None
    if straight(rows):
        hidden, counted = load(backend or "", rows).geglu(rows, activation, gated, size)
        hidden = hidden if hidden.shape == shape else hidden.view(shape)
        return hidden if counted is None else (hidden, counted)
    if size is None:
        return ops.geglu(rows, activation, gated, backend or "").view(shape)
    hidden, *statistics = ops.geglu_moments(rows, activation, gated, size, backend or "")
    return hidden.view(shape), Moments(counts(rows.shape[0], size, rows.device), *statistics)


@overload
def geglu_linear(
    x: Tensor,
    weight: Tensor | Prepared,
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
    weight: Tensor | Prepared,
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
    weight: Tensor | Prepared,
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
    weight: Tensor | Prepared,
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
    where gated=False), all of one dtype; or x alone and what `prepare` made of a gated weight and
    its bias. exact=False allows a GPU the polynomial erfc, which is faster and off by at most
    1.5e-7 before rounding. The rest is as in `geglu`.
    """
    interleaved = None
    if isinstance(weight, Prepared):
        if bias is not None or not gated:
            raise ValueError("weight: prepared weights are gated and hold their own bias")
        weight.check()
        weight, bias, interleaved = weight.weight, weight.bias, weight.interleaved
    check_tensor("x", x)
    check_tensor("weight", weight, 2)
    find(activation)
    features, channels = weight.shape
    neurons = inner_neurons("weight", features, gated)
    if x.shape[-1] != channels:
        raise ValueError(f"weight: {channels} channels, but x has {x.shape[-1]}")
    if weight.dtype != x.dtype:
        raise TypeError(f"weight: {weight.dtype}, but x is {x.dtype}")
    if bias is not None:
        check_tensor("bias", bias, 1)
        if bias.shape[0] != features:
            raise ValueError(f"bias: {bias.shape[0]} features, but weight has {features}")
        if bias.dtype != x.dtype:
            raise TypeError(f"bias: {bias.dtype}, but x is {x.dtype}")
    rows = _rows(x)
    shape = (*x.shape[:-1], neurons)
    settings = (activation, gated, exact)
    size = segment_size(rows.shape[0], segment_rows) if moments else None
    if straight(rows, weight, bias):
        module = load(backend or "", rows)
        laid_out = () if interleaved is None else (interleaved,)
        hidden, counted = module.geglu_linear(rows, weight, bias, *settings, size, *laid_out)
        hidden = hidden if hidden.shape == shape else hidden.view(shape)
        return hidden if counted is None else (hidden, counted)
    if size is None:
        return ops.geglu_linear(rows, weight, bias, *settings, backend or "").view(shape)
    hidden, *statistics = ops.geglu_linear_moments(
        rows, weight, bias, *settings, size, backend or ""
    )
    return hidden.view(shape), Moments(counts(rows.shape[0], size, rows.device), *statistics)


def column_moments(
    activation: Tensor,
    *,
    row_weight: Tensor | None = None,
    row_normalised: bool = False,
    segment_rows: int | None = None,
    backend: str | None = None,
) -> Moments:
    """Statistics of every column of activation [..., rows, neurons], by segments of rows.

    row_weight [..., rows] multiplies each row before anything is counted. row_normalised divides
    each row by its L2 norm (1e-12 at least) instead, in the same read: the `l2_norm` of the result
    is then the row-normalised norm of ConceptPrune (arXiv 2406.18566).
    """
    if row_normalised and row_weight is not None:
        raise ValueError("row_weight: rows are either weighted or row_normalised, not both")
    check_tensor("activation", activation)
    rows = _rows(activation.detach())
    if row_weight is not None:
        check_tensor("row_weight", row_weight, activation.ndim - 1)
        if row_weight.shape != activation.shape[:-1]:
            expected = tuple(activation.shape[:-1])
            raise ValueError(f"row_weight: shape {tuple(row_weight.shape)}; expected {expected}")
        row_weight = row_weight.detach().flatten()
    size = segment_size(rows.shape[0], segment_rows)
    if straight(rows, row_weight):
        module = load(backend or "", rows)
        return module.column_moments(rows, row_weight, row_normalised, size)
    statistics = ops.column_moments(rows, row_weight, row_normalised, size, backend or "")
    return Moments(counts(rows.shape[0], size, rows.device), *statistics)


def merge(a: Moments, b: Moments) -> Moments:
    """Statistics of the rows of both, segment by segment: Chan's formula in float64."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"merge: shapes {tuple(a.mean.shape)} and {tuple(b.mean.shape)} differ")
    if a.mean.device.type == "cpu":
        return join(a, b)
    if straight(a.mean, b.mean):
        return load("", a.max_abs).merge(a, b)
    fields = ("count", "mean", "m2", "max_abs", "nonzero")
    statistics = ops.merge([getattr(a, f) for f in fields], [getattr(b, f) for f in fields])
    return Moments(a.count + b.count, *statistics)


def _rows(tensor: Tensor) -> Tensor:
    """[..., rows, features] as [rows, features]."""
    return tensor if tensor.ndim == 2 else tensor.flatten(0, -2)
