"""How much the output depends on each neuron, without gradients: for models too big for them.

Noise is added to one feed-forward's output at a time. What of it arrives at the denoiser's output
is the block's gain; a neuron's change is what it adds to its block's output, times that gain. The
gain supplies the scale between blocks that activations and weights alone lack.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.blocks.families import Site
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents

SIZE = 0.1  # of the added noise, relative to the block's own output (root mean squares)


@torch.no_grad()
def changes_by_perturbation(
    driver: Driver,
    sites: Mapping[str, Site],
    latents: Latents,
    times: Tensor,
    conditioning: Conditioning,
    source: torch.Generator,
) -> dict[str, Float[Tensor, "images neurons"]]:
    """Each neuron's estimated change of the output (its norm) per unit of its gate.

    Takes one forward pass, and one more for each site.
    """
    energy: dict[str, Tensor] = {}
    size: dict[str, Tensor] = {}
    handles = [
        site.contraction.register_forward_hook(_measure(path, site, energy, size))
        for path, site in sites.items()
    ]
    try:
        output = driver.predict(latents, times, conditioning)
    finally:
        for handle in handles:
            handle.remove()
    changes = {}
    for path, site in sites.items():
        added: list[Tensor] = []
        hook = site.contraction.register_forward_hook(_add(size[path], source, added))
        try:
            moved = driver.predict(latents, times, conditioning) - output
        finally:
            hook.remove()
        gain = moved.float().square().flatten(1).sum(1) / added[0]
        norms = site.weight.float().square().sum(0)
        changes[path] = (gain[:, None] * energy[path] * norms).sqrt()
    return changes


def _measure(path: str, site: Site, energy: dict[str, Tensor], size: dict[str, Tensor]):
    def after(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        neurons = site.neurons_in(inputs[0]).float()
        energy[path] = neurons.square().flatten(1, -2).sum(1)
        size[path] = output.float().square().flatten(1).mean(1).sqrt()

    return after


def _add(size: Tensor, source: torch.Generator, added: list[Tensor]):
    def after(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        scale = (SIZE * size).view(-1, *(1,) * (output.ndim - 1))
        noise = torch.randn(output.shape, generator=source).to(output.device) * scale
        added.append(noise.square().flatten(1).sum(1))
        return output + noise.to(output.dtype)

    return after
