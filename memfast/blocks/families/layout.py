"""What a feed-forward block is made of: which rows and columns of its linears are one neuron."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Expansion:
    """Rows `start + half · neurons + j`, for every half, of `linear` belong to neuron j."""

    linear: str
    halves: int = 1
    start: int = 0


@dataclass(frozen=True)
class Layout:
    """How one block is laid out; names are relative to the block."""

    neurons: int
    expansions: tuple[Expansion, ...]
    contraction: str
    offset: int = 0  # where the neurons start among the contracting linear's inputs
    gate: str | None = None  # a child that maps the block's input to the neurons, and is
    activation: str | None = None  # projection and packed gate of this kernel activation
    width_attributes: tuple[str, ...] = ()  # ints on the block that must follow the neurons


@dataclass(frozen=True)
class Family:
    """One way of writing a feed-forward block: what its linears are called, and what they do.

    `neurons(block)` counts them where the contracting linear reads more than neurons. `halves` is
    the number of runs of neurons among an expanding linear's outputs; None: all of its outputs.
    `only` lists class names where other modules name their children alike.
    """

    name: str
    expand: tuple[str, ...]
    contract: str
    models: str
    neurons: Callable[[Any, nn.Linear], int] | None = None
    halves: int | None = None
    gate: str | None = None
    width_attributes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def layout(self, block: nn.Module) -> Layout | None:
        """The layout of `block`, or None if it is not of this family."""
        if self.only and type(block).__name__ not in self.only:
            return None
        contraction = _linear(block, self.contract)
        if contraction is None:
            return None
        expanding = {name: _linear(block, name) for name in self.expand}
        if None in expanding.values():
            return None
        neurons = self.neurons(block, contraction) if self.neurons else contraction.in_features
        expansions = []
        for name, linear in expanding.items():
            rows: int = linear.out_features
            halves = self.halves or rows // max(1, neurons)
            start = rows - halves * neurons
            if halves < 1 or start < 0 or (start and self.halves is None):
                return None
            expansions.append(Expansion(name, halves, start))
        packed = GATES.get(type(block.get_submodule(self.gate)).__name__) if self.gate else None
        return Layout(
            neurons=neurons,
            expansions=tuple(expansions),
            contraction=self.contract,
            offset=contraction.in_features - neurons,
            gate=self.gate if packed else None,
            activation=packed,
            width_attributes=tuple(a for a in self.width_attributes if hasattr(block, a)),
        )


@dataclass(frozen=True)
class Site:
    """One feed-forward block of one model."""

    path: str
    block: nn.Module
    layout: Layout
    family: Family

    @property
    def neurons(self) -> int:
        return self.layout.neurons

    @property
    def contraction(self) -> Any:
        """The linear that reads the neurons, or what wraps it (an adapter, a trace)."""
        return self.block.get_submodule(self.layout.contraction)

    @property
    def expansions(self) -> list[Any]:
        """The linears that make the neurons, or what wraps them."""
        return [self.block.get_submodule(e.linear) for e in self.layout.expansions]

    @property
    def columns(self) -> slice:
        """The columns of the contracting linear's weight that belong to the neurons."""
        return slice(self.layout.offset, self.layout.offset + self.neurons)

    @property
    def parameters_per_neuron(self) -> int:
        """How many parameters go with one neuron."""
        rows = sum(
            e.halves * (linear.in_features + (linear.bias is not None))
            for e, linear in zip(self.layout.expansions, self.expansions, strict=True)
        )
        return rows + self.contraction.out_features


# Packed gates, value first, that the kernels compute: class of the gate -> kernel activation.
GATES = {"GEGLU": "gelu", "SwiGLU": "silu"}


def _linear(block: nn.Module, name: str) -> Any:
    """The child of that name if it is linear, or wraps one as an adapter does."""
    child: nn.Module | None = block
    for part in name.split("."):
        child = child._modules.get(part) if child is not None else None
    is_linear = hasattr(child, "in_features") and hasattr(child, "out_features")
    return child if is_linear else None
