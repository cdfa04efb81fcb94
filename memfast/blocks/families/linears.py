"""The linears of a feed-forward: nn.Linear, or nn.Conv2d, or what wraps one (an adapter, a trace).

A linear has its channels last, a convolution second; the rows of a convolution are its pixels.
"""

from typing import Any

from torch import Tensor, nn


def linear_at(block: nn.Module, name: str) -> Any:
    """The child of that name if it is linear, or wraps one as an adapter does; else None."""
    return _child(block, name, ("in_features", "out_features"))


def convolution_at(block: nn.Module, name: str) -> Any:
    """The child of that name if it is a convolution of two dimensions, or wraps one; else None."""
    found = _child(block, name, ("weight",))
    return found if is_convolution(found) else None


def is_convolution(linear: Any) -> bool:
    """Whether its channels come second, before height and width."""
    weight = getattr(linear, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 4


def inputs_of(linear: Any) -> int:
    """How many channels it reads."""
    return _size(linear, "in_channels", "in_features")


def outputs_of(linear: Any) -> int:
    """How many channels it makes."""
    return _size(linear, "out_channels", "out_features")


def fan_in(linear: Any) -> int:
    """How many weights one of its outputs has."""
    return linear.weight.shape[1:].numel() if is_convolution(linear) else linear.in_features


def arguments_of(linear: Any) -> dict[str, Any]:
    """What makes another of its class and sizes."""
    bias = linear.bias is not None
    if not is_convolution(linear):
        return {"in_features": inputs_of(linear), "out_features": outputs_of(linear), "bias": bias}
    kept = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")
    return {name: getattr(linear, name) for name in kept} | {"bias": bias}


def fit(linear: Any) -> None:
    """Make what it says of its sizes follow its weight, which was cut."""
    outputs, inputs = linear.weight.shape[:2]
    if not is_convolution(linear):
        linear.out_features, linear.in_features = outputs, inputs
        return
    linear.groups = outputs if linear.groups > 1 else 1
    linear.out_channels, linear.in_channels = outputs, inputs * linear.groups


def is_plain(linear: Any) -> bool:
    """Whether nothing but its own floating-point weight decides what it computes, so that neurons
    can be cut; of convolutions, one by one pixel, or one a channel."""
    weight = getattr(linear, "weight", None)
    if not (
        isinstance(linear, nn.Linear | nn.Conv2d)
        and isinstance(weight, nn.Parameter)
        and not is_packed(weight.data)
    ):
        return False
    if isinstance(linear, nn.Linear):
        return weight.shape == (linear.out_features, linear.in_features)
    depthwise = linear.groups == linear.in_channels == linear.out_channels
    return depthwise or (linear.groups == 1 and linear.kernel_size == (1, 1))


def is_packed(weight: Tensor) -> bool:
    """Whether a tensor is kept as something else than its values: quantised, or in eight bits."""
    own = type(weight)
    unpacks = own.dequantize is not Tensor.dequantize or hasattr(own, "__tensor_flatten__")
    whole = weight.is_floating_point() and weight.element_size() > 1
    return unpacks or not whole


def to_rows(linear: Any, values: Tensor) -> Tensor:
    """What a linear reads or makes, with its channels last: [images, ..., channels]."""
    return values.movedim(1, -1) if is_convolution(linear) else values


def from_rows(linear: Any, rows: Tensor) -> Tensor:
    """The inverse of `to_rows`."""
    return rows.movedim(-1, 1) if is_convolution(linear) else rows


def _child(block: nn.Module, name: str, attributes: tuple[str, ...]) -> Any:
    child: nn.Module | None = block
    for part in name.split("."):
        child = child._modules.get(part) if child is not None else None
    return child if all(hasattr(child, a) for a in attributes) else None


def _size(linear: Any, channels: str, features: str) -> int:
    return getattr(linear, channels if hasattr(linear, channels) else features)
