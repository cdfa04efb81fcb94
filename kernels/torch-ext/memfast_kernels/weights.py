"""A gated linear's weights, laid out once for the kernel that will read them many times."""

from dataclasses import dataclass

from torch import Tensor

from .backends import load
from .shapes import check_tensor, inner_neurons


@dataclass(frozen=True)
class Prepared:
    """What `geglu_linear` takes in place of a weight; made by `prepare`.

    interleaved: a copy of `weight`, value and gate rows alternating, where the device has a kernel
    for it; None elsewhere, and then `weight` itself serves.
    """

    weight: Tensor
    bias: Tensor | None
    interleaved: Tensor | None
    version: int

    def serves(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether it was made of these, and they were not changed since."""
        ours = (self.weight, weight), (self.bias, bias)
        same = all(_address(a) == _address(b) for a, b in ours)
        return same and _version(weight) == self.version

    def check(self) -> None:
        """Raises ValueError if the weight was changed in place since the copy was made."""
        if self.interleaved is not None and _version(self.weight) != self.version:
            raise ValueError("weight: changed in place since `prepare`; prepare it again")


def prepare(weight: Tensor, bias: Tensor | None = None) -> Prepared:
    """Lays out a gated weight [2·neurons, channels] (value first), and its bias [2·neurons].

    Takes as much memory again as the weight on a device with a kernel for it, none elsewhere.
    Calls that want a gradient or are being compiled use the weight as it is.
    """
    check_tensor("weight", weight, 2)
    inner_neurons("weight", len(weight), True)
    weight = weight.detach()
    backend = load("", weight)
    interleave = getattr(backend, "interleave", None)
    interleaved = None if interleave is None else interleave(weight)
    return Prepared(weight, None if bias is None else bias.detach(), interleaved, _version(weight))


def fuses(x: Tensor, weight: Tensor) -> bool:
    """Whether `geglu_linear` of a gated weight, prepared, is faster on x's device than the device's
    own linear and then `geglu`: on a CPU always, on a GPU by its table of shapes."""
    rule = getattr(load("", x), "fuses", None)
    return rule is not None and rule(x, weight)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
