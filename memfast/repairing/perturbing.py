"""Erasing before relearning: what is not taught again after this is gone from the weights.

A distillation that starts from the pruned weights keeps what they hold of captions that it never
mentions; one that starts from shrunk and perturbed weights has to be taught everything anew, and
nobody teaches it the memorized images. Source: Ash & Adams 2020 (arXiv 1910.08475), there for
warm starts.
"""

import torch
from torch import nn

from memfast.pipelines.noise import generator


@torch.no_grad()
def perturb(model: nn.Module, share: float, seed: int) -> None:
    """(1 - share) · (W + share · noise of W's deviation), in place, for every matrix and kernel.

    share: in [0, 1); 0 changes nothing. Biases and the scales of norms stay. The noise of a weight
    depends on its name and the seed alone.
    """
    if not share:
        return
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            noise = torch.randn(weight.shape, generator=generator(f"perturb/{name}", seed))
            weight.add_(noise.to(weight) * weight.std(), alpha=share).mul_(1 - share)
