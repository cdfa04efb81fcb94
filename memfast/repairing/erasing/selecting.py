"""Which single weights memorized captions use most, for how much reference captions use them.

A weight's diagonal Fisher information is its mean squared gradient of the denoising loss, of one
caption and noise level at a time. The ratio of two such is that of selective synaptic dampening
(Foster et al. 2023, arXiv 2308.07707).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from memfast.blocks.sizes import parameters
from memfast.memory.replaying import Replayed
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.fitting import SMALL
from memfast.pipelines.noise import generator
from memfast.precision import Gradients, wide
from memfast.repairing.erasing.perturbing import matrices
from memfast.repairing.samples import Samples

LEVELS = 4  # of noise, a caption each
MOST = 48  # captions a set
FAINTEST = 1e-12  # of information, relative to the mean of the reference captions'


def selected_weights(
    driver: Driver,
    memorized: Samples,
    reference: Samples,
    share: float,
    seed: int,
    progress: Callable[[int], None] | None = None,
    graphs: bool = True,
) -> dict[str, Bool[Tensor, "..."]]:
    """{name: mask} of the `share` of all matrices' and kernels' weights whose Fisher information
    on the memorized images is the largest multiple of that on the reference images."""
    ours, theirs = (fisher(driver, each, seed, progress, graphs) for each in (memorized, reference))
    least = FAINTEST * torch.stack([each.mean() for each in theirs.values()]).mean()
    ratios = {name: ours[name] / (theirs[name] + least) for name in ours}
    every = torch.cat([ratio.flatten() for ratio in ratios.values()])
    place = max(1, round((1 - share) * len(every)))
    threshold = every.kthvalue(place).values
    return {name: ratio > threshold for name, ratio in ratios.items()}


def fisher(
    driver: Driver,
    samples: Samples,
    seed: int,
    progress: Callable[[int], None] | None = None,
    graphs: bool = True,
) -> dict[str, Tensor]:
    """Each matrix's and kernel's mean squared gradient, float32, of at most MOST samples at LEVELS
    noise levels; a sample's draws depend on its id and the seed alone."""
    weights = matrices(driver.model)
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights.values()]
    gradients = Gradients(driver.model)
    told = samples.conditioning[:1]

    def slopes(noisy: Tensor, exact: Tensor, time: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        given = told.told(dict(zip(told.leaves, leaves, strict=True)))
        with torch.enable_grad():
            loss = (wide(driver.predict(noisy, time, given)) - exact).square().mean()
            return gradients.of(loss, [*weights.values()], materialize_grads=True)

    small = parameters(driver.model) < SMALL
    replayed = Replayed(slopes, on=graphs and small and gradients.scale == 1)
    count = min(MOST, len(samples))
    for row in range(count):
        source = generator(f"{samples.ids[row]}/fisher", seed)
        clean, told = samples.clean[row : row + 1], samples.conditioning[row : row + 1]
        for level in range(LEVELS):
            share = (level + torch.rand(1, generator=source)) / LEVELS
            noise = driver.noise_of([source])
            times = driver.path.at_share(share).to(driver.device)
            noisy = driver.path.add(clean, noise, times)
            exact = wide(driver.path.target(clean, noise, times))
            run = replayed if driver.calls_of(times, told) is None else slopes
            found = run(noisy, exact, times, *told.leaves.values())
            slope = [each.float() for each in found]
            torch._foreach_addcmul_(sums, slope, slope, 1 / (count * LEVELS))
        if progress:
            progress(1)
    return dict(zip(weights, sums, strict=True))
