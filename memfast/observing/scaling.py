"""Gates on neurons: factors between a feed-forward's neurons and the linear that reads them.

A gate of zero is the neuron's removal, so the gradient by a gate says what its removal changes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memfast.blocks.families import Site
from memfast.blocks.families.linears import from_rows, to_rows
from memfast.pipelines.drivers.driver import Driver

Gates = Mapping[str, Float[Tensor, "... neurons"]]


def open_gates(
    sites: Mapping[str, Site], images: int | None = None, device: torch.device | None = None
) -> dict[str, Tensor]:
    """Gates of one that ask for gradients: [images, neurons], or [neurons] for all images.

    On `device`, or where the weights are.
    """
    leading = () if images is None else (images,)
    return {
        path: torch.ones(
            *leading, site.neurons, device=device or site.contraction.weight.device
        ).requires_grad_()
        for path, site in sites.items()
    }


@contextmanager
def gated(
    sites: Mapping[str, Site],
    gates: Gates,
    means: Mapping[str, Tensor] | None = None,
    driver: Driver | None = None,
) -> Iterator[None]:
    """Within the context each neuron is multiplied by its gate: [neurons] or [images, neurons].

    `means` ({site: [neurons]}, as a Subspace holds) is what a closed gate leaves of a neuron: what
    a removed one leaves when its mean is folded into the bias. By default nothing. driver: knows
    which images a call has, where a prediction takes several.
    """
    handles = [
        site.contraction.register_forward_pre_hook(
            _gate(site, gates[path], (means or {}).get(path), driver)
        )
        for path, site in sites.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gate(site: Site, gate: Tensor, mean: Tensor | None, driver: Driver | None):
    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole, *rest = inputs
        whole = to_rows(module, whole)
        shaped = gate.to(whole.device, whole.dtype)
        if gate.ndim == 2:  # one for each image, the same for all its tokens
            shaped = shaped if driver is None else driver.of_call(shaped)
            shaped = shaped.view(len(shaped), *(1,) * (whole.ndim - 2), -1)
        neurons = whole[..., site.columns]
        if mean is None:
            neurons = neurons * shaped
        else:
            rest_of = mean.to(whole.device, whole.dtype)
            neurons = rest_of + (neurons - rest_of) * shaped
        changed = torch.cat((whole[..., : site.layout.offset], neurons), dim=-1)
        return from_rows(module, changed), *rest

    return before
