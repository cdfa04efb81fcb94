"""Where feed-forward neurons live: one entry per way of writing a feed-forward block.

A neuron is one row of each expanding linear (two rows where value and gate are packed in one) and
one column of the contracting linear. To support another family, add an entry to FAMILIES.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from memfast.errors import InputError


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
    """One way of writing a feed-forward block."""

    name: str
    blocks: tuple[str, ...]  # class names, as in the model's code
    layout: Callable[[nn.Module], Layout]


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
    def contraction(self) -> nn.Linear:
        """The linear that reads the neurons."""
        return self.block.get_submodule(self.layout.contraction)  # type: ignore[return-value]

    @property
    def columns(self) -> slice:
        """The columns of the contracting linear's weight that belong to the neurons."""
        return slice(self.layout.offset, self.layout.offset + self.neurons)


def _feed_forward(block: nn.Module) -> Layout:
    """diffusers' FeedForward: net = [activation with its projection, dropout, linear, …]."""
    gate, contraction = block.get_submodule("net.0"), block.get_submodule("net.2")
    packed = {"GEGLU": "gelu", "SwiGLU": "silu"}.get(type(gate).__name__)
    return Layout(
        neurons=contraction.in_features,  # type: ignore[arg-type]
        expansions=(Expansion("net.0.proj", halves=2 if packed else 1),),
        contraction="net.2",
        gate="net.0" if packed else None,
        activation=packed,
    )


FAMILIES = (Family("feed-forward", ("FeedForward",), _feed_forward),)

_UNET_ORDER = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}


def find_sites(model: nn.Module) -> dict[str, Site]:
    """Every feed-forward block of `model`, keyed by module path, in execution order where known.

    Raises InputError, listing the families, if the model has none.
    """
    sites: dict[str, Site] = {}
    for path, block in model.named_modules():
        for family in FAMILIES:
            if type(block).__name__ in family.blocks:
                sites[path] = Site(path, block, family.layout(block), family)
                break
    if not sites:
        known = "; ".join(f"{f.name} ({', '.join(f.blocks)})" for f in FAMILIES)
        raise InputError(
            f"{type(model).__name__} has no feed-forward block of a known family: {known}"
        )
    return dict(sorted(sites.items(), key=lambda item: _UNET_ORDER.get(item[0].split(".")[0], -1)))


def ffn_sites(model: nn.Module) -> dict[str, int]:
    """Module path of each feed-forward block -> its number of inner neurons."""
    return {path: site.neurons for path, site in find_sites(model).items()}
