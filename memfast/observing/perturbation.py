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
    images = len(latents)
    seen = {path: Output(images, site, driver) for path, site in sites.items()}
    handles = [
        site.contraction.register_forward_hook(seen[path].measure) for path, site in sites.items()
    ]
    try:
        output = driver.predict(latents, times, conditioning)
    finally:
        for handle in handles:
            handle.remove()
    changes = {}
    for path, site in sites.items():
        if not seen[path].energy.any():  # of several models not the one that ran
            changes[path] = seen[path].energy
            continue
        seen[path].source = source
        hook = site.contraction.register_forward_hook(seen[path].disturb)
        try:
            moved = driver.predict(latents, times, conditioning) - output
        finally:
            hook.remove()
        added = seen[path].added
        gain = moved.float().square().flatten(1).sum(1) / torch.where(added > 0, added, 1)
        norms = site.weight.float().square().sum(0)
        changes[path] = (gain[:, None] * seen[path].energy * norms).sqrt()
    return changes


class Output:
    """One site's output: how large it is, and noise of a share of that added to it."""

    source: torch.Generator

    def __init__(self, images: int, site: Site, driver: Driver):
        self.images, self.site, self.driver = images, site, driver
        device = driver.device
        self.energy = torch.zeros(images, site.neurons, device=device)  # of the neurons
        self.square, self.values, self.added = torch.zeros(3, images, device=device)

    def measure(self, module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Counts a run of the contracting linear."""
        neurons = self.site.neurons_in(inputs[0]).float()
        squares = output.float().square().flatten(1)
        self.energy += self._all(neurons.square().flatten(1, -2).sum(1))
        self.square += self._all(squares.sum(1))
        self.values += self._all(torch.full_like(squares[:, 0], squares.shape[1]))

    def disturb(self, module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Adds noise to a run's output."""
        size = self.driver.of_call((self.square / self.values).sqrt())
        scale = (SIZE * size).view(-1, *(1,) * (output.ndim - 1))
        noise = torch.randn(output.shape, generator=self.source).to(output.device) * scale
        self.added += self._all(noise.square().flatten(1).sum(1))
        return output + noise.to(output.dtype)

    def _all(self, values: Tensor) -> Tensor:
        return self.driver.of_all(values, self.images)
