"""The table of activations: one entry serves every backend, the backward and the tests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """What eager torch computes, and the gradient with respect to the input.

    forward(x) -> act(x); backward(grad, x) -> grad * act'(x). Both are elementwise.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(gelu, partial(aten.gelu_backward, approximate="none")),
    "gelu_tanh": Activation(
        partial(gelu, approximate="tanh"), partial(aten.gelu_backward, approximate="tanh")
    ),
    "silu": Activation(silu, aten.silu_backward),
    "relu": Activation(relu, lambda grad, x: aten.threshold_backward(grad, x, 0)),
}


def find(activation: str) -> Activation:
    """The table's entry. Raises ValueError that lists the legal names."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]
