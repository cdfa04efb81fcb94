"""How big a model is, and how much of it its feed-forwards are: exact counts, no measurement."""

from dataclasses import dataclass

from torch import nn

from memfast.models.families import find_sites


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


def size_of(model: nn.Module) -> Size:
    """Counts of `model`, which may be on any device, meta too."""
    sites = find_sites(model).values()
    tensors = [*model.parameters(), *model.buffers()]
    return Size(
        sites=len(sites),
        neurons=sum(site.neurons for site in sites),
        parameters=sum(p.numel() for p in model.parameters()),
        feed_forward=sum(site.neurons * site.parameters_per_neuron for site in sites),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )
