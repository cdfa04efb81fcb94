"""The torch operators: schema, shapes for the compiler, backward. Tensors in, tensors out.

`moments` of an operator are four tensors; the count follows from the shapes. Statistics carry no
gradient. The library's namespace follows the package's name, so that two copies of the package
(one installed, one loaded from the Kernel Hub) never redefine each other's operators.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from .activations import find
from .backends import load
from .moments import Moments
from .shapes import Size, inner_neurons, segments_of, statistics_device

NAMESPACE = __name__.rpartition(".")[0].replace(".", "_")
Statistics = tuple[Tensor, Tensor, Tensor, Tensor]


def _fields(moments: Moments) -> Statistics:
    return moments.mean, moments.m2, moments.max_abs, moments.nonzero


def _fake_fields(like: Tensor, rows: Size, segment_rows: Size, neurons: Size) -> Statistics:
    shape, device = (segments_of(rows, segment_rows), neurons), statistics_device(like.device)
    return (
        torch.empty(shape, dtype=torch.float64, device=device),
        torch.empty(shape, dtype=torch.float64, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=torch.int64, device=device),
    )


@torch.library.custom_op(f"{NAMESPACE}::geglu", mutates_args=())
def geglu(projected: Tensor, activation: str, gated: bool, backend: str) -> Tensor:
    return load(backend, projected).geglu(projected, activation, gated, None)[0]


@geglu.register_fake
def _(projected: Tensor, activation: str, gated: bool, backend: str) -> Tensor:
    rows, width = projected.shape
    return projected.new_empty(rows, inner_neurons("projected", width, gated))


@torch.library.custom_op(f"{NAMESPACE}::geglu_moments", mutates_args=())
def geglu_moments(
    projected: Tensor, activation: str, gated: bool, segment_rows: int, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = load(backend, projected)
    hidden, moments = module.geglu(projected, activation, gated, segment_rows)
    return hidden, *_fields(moments)


@geglu_moments.register_fake
def _(
    projected: Tensor, activation: str, gated: bool, segment_rows: Size, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, width = projected.shape
    neurons = inner_neurons("projected", width, gated)
    hidden = projected.new_empty(rows, neurons)
    return hidden, *_fake_fields(projected, rows, segment_rows, neurons)


@torch.library.custom_op(f"{NAMESPACE}::geglu_linear", mutates_args=())
def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    backend: str,
) -> Tensor:
    module = load(backend, x)
    return module.geglu_linear(x, weight, bias, activation, gated, exact, None)[0]


@geglu_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    backend: str,
) -> Tensor:
    return x.new_empty(len(x), inner_neurons("weight", len(weight), gated))


@torch.library.custom_op(f"{NAMESPACE}::geglu_linear_moments", mutates_args=())
def geglu_linear_moments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = load(backend, x)
    hidden, moments = module.geglu_linear(x, weight, bias, activation, gated, exact, segment_rows)
    return hidden, *_fields(moments)


@geglu_linear_moments.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: Size,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    neurons = inner_neurons("weight", len(weight), gated)
    return x.new_empty(len(x), neurons), *_fake_fields(x, len(x), segment_rows, neurons)


@torch.library.custom_op(f"{NAMESPACE}::column_moments", mutates_args=())
def column_moments(
    activation: Tensor,
    row_weight: Tensor | None,
    row_normalised: bool,
    segment_rows: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    module = load(backend, activation)
    return _fields(module.column_moments(activation, row_weight, row_normalised, segment_rows))


@column_moments.register_fake
def _(
    activation: Tensor,
    row_weight: Tensor | None,
    row_normalised: bool,
    segment_rows: Size,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, neurons = activation.shape
    return _fake_fields(activation, rows, segment_rows, neurons)


@torch.library.custom_op(f"{NAMESPACE}::merge", mutates_args=())
def merge(a: list[Tensor], b: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, right = Moments(*a), Moments(*b)
    counted = load("", left.max_abs).merge(left, right)
    return _fields(counted)


@merge.register_fake
def _(a: list[Tensor], b: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, mean, m2, max_abs, nonzero = a
    empty = torch.empty_like
    return empty(mean), empty(m2), empty(max_abs), empty(nonzero)


def _gate_backward(grad: Tensor, projected: Tensor, activation: str, gated: bool) -> Tensor:
    """Gradient with respect to the projection, value first and gate second."""
    act = find(activation)
    if not gated:
        return act.backward(grad, projected)
    value, gate = projected.chunk(2, dim=-1)
    return torch.cat([grad * act.forward(gate), act.backward(grad * value, gate)], dim=-1)


def _save_geglu(ctx, inputs, output) -> None:
    projected, ctx.activation, ctx.gated, *_ = inputs
    ctx.save_for_backward(projected)
    _no_gradient_of_statistics(ctx, output)


def _save_linear(ctx, inputs, output) -> None:
    x, weight, bias, ctx.activation, ctx.gated, *_ = inputs
    ctx.save_for_backward(x, weight, bias)
    _no_gradient_of_statistics(ctx, output)


def _no_gradient_of_statistics(ctx, output) -> None:
    if isinstance(output, tuple):
        ctx.mark_non_differentiable(*output[1:])


def _backward_geglu(ctx, grad, *_):
    (projected,) = ctx.saved_tensors
    return _gate_backward(grad, projected, ctx.activation, ctx.gated)


def _backward_linear(ctx, grad, *_):
    x, weight, bias = ctx.saved_tensors
    grad = _gate_backward(grad, linear(x, weight, bias), ctx.activation, ctx.gated)
    return grad @ weight, grad.mT @ x, None if bias is None else grad.sum(0)


def _padded(backward, arguments: int):
    """The backward with None for every argument that is no tensor."""

    def run(ctx, grad, *rest):
        grads = backward(ctx, grad)
        grads = grads if isinstance(grads, tuple) else (grads,)
        return *grads, *(None,) * (arguments - len(grads))

    return run


geglu.register_autograd(_padded(_backward_geglu, 4), setup_context=_save_geglu)
geglu_moments.register_autograd(_padded(_backward_geglu, 5), setup_context=_save_geglu)
geglu_linear.register_autograd(_padded(_backward_linear, 7), setup_context=_save_linear)
geglu_linear_moments.register_autograd(_padded(_backward_linear, 8), setup_context=_save_linear)
