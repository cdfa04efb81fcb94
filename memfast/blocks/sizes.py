"""How big a model is, and how much of it its feed-forwards are: exact counts, no measurement."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from memfast.blocks.families import find_sites


@dataclass(frozen=True)
class Size:
    """Counts of one model; `feed_forward` is the part of `parameters` that goes with neurons."""

    sites: int
    neurons: int
    parameters: int
    feed_forward: int
    bytes: int

    @property
    def share(self) -> float:
        """The feed-forward neurons' share of all parameters."""
        return self.feed_forward / self.parameters


def parameters(model: nn.Module) -> int:
    """How many a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_of(model: nn.Module) -> Size:
    """Counts of `model`, which may be on any device, meta too."""
    sites = find_sites(model).values()
    tensors = [*model.parameters(), *model.buffers()]
    return Size(
        sites=len(sites),
        neurons=sum(site.neurons for site in sites),
        parameters=parameters(model),
        feed_forward=sum(site.neurons * site.parameters_per_neuron for site in sites),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


class MetaBesideValues(TorchDispatchMode):
    """Within it, operators take tensors with values beside tensors without (on the meta device), so
    that a model may look into its masks."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = (args, kwargs or {})
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(given)):
            given = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), given)
        return func(*given[0], **given[1])


def flops_of(model: nn.Module, inputs: dict[str, Any]) -> tuple[int, int]:
    """(all, the feed-forwards') floating-point operations of one forward pass.

    Counted, not timed: works without storage, on the meta device.
    """
    rows: dict[str, int] = {}
    sites = find_sites(model)

    def count(path: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen = sites[path].neurons_in(arguments[0])
            rows[path] = rows.get(path, 0) + seen.shape[:-1].numel()

        return hook

    handles = [s.contraction.register_forward_pre_hook(count(p)) for p, s in sites.items()]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter, MetaBesideValues():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    mine = sum(2 * n * sites[p].weights_per_neuron * sites[p].neurons for p, n in rows.items())
    return counter.get_total_flops(), mine
