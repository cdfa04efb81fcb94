"""What a feed-forward block is made of: which rows and columns of its linears are one neuron."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from memfast.blocks.families.linears import (
    convolution_at,
    fan_in,
    inputs_of,
    linear_at,
    outputs_of,
    to_rows,
)


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
    `only` lists class names where other modules name their children alike. `convolutions`: the
    linears are those, over pixels.
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
    convolutions: bool = False

    def layout(self, block: nn.Module) -> Layout | None:
        """The layout of `block`, or None if it is not of this family."""
        if self.only and type(block).__name__ not in self.only:
            return None
        child = convolution_at if self.convolutions else linear_at
        contraction = child(block, self.contract)
        if contraction is None:
            return None
        expanding = {name: child(block, name) for name in self.expand}
        if None in expanding.values():
            return None
        neurons = self.neurons(block, contraction) if self.neurons else inputs_of(contraction)
        expansions = []
        for name, linear in expanding.items():
            rows = outputs_of(linear)
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
            offset=inputs_of(contraction) - neurons,
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
    def weight(self) -> Tensor:
        """What the neurons are multiplied by, [channels, neurons]: a view of the contracting
        linear's weight."""
        return self.contraction.weight.flatten(1)[:, self.columns]

    def neurons_in(self, inputs: Tensor) -> Tensor:
        """The neurons [images, ..., neurons] in what the contracting linear reads."""
        return to_rows(self.contraction, inputs)[..., self.columns]

    @property
    def weights_per_neuron(self) -> int:
        """How many weights, biases aside, go with one neuron: its products for each row."""
        rows = sum(
            e.halves * fan_in(linear)
            for e, linear in zip(self.layout.expansions, self.expansions, strict=True)
        )
        return rows + outputs_of(self.contraction)

    @property
    def parameters_per_neuron(self) -> int:
        """How many parameters go with one neuron."""
        return self.weights_per_neuron + sum(
            e.halves * (linear.bias is not None)
            for e, linear in zip(self.layout.expansions, self.expansions, strict=True)
        )


# Packed gates, value first, that the kernels compute: class of the gate -> kernel activation.
GATES = {"GEGLU": "gelu", "SwiGLU": "silu"}
