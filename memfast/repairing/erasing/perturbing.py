"""Erasing before relearning: what is not taught again after this is gone from the weights.

A distillation that starts from the pruned weights keeps what they hold of captions that it never
mentions; one that starts from shrunk and perturbed weights has to be taught everything anew, and
nobody teaches it the memorized images. Source: Ash & Adams 2020 (arXiv 1910.08475), there for
warm starts.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from memfast.pipelines.noise import generator


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is erased: matrices and kernels by name. Biases and the scales of norms stay."""
    return {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}


@torch.no_grad()
def perturb(
    model: nn.Module,
    share: float,
    seed: int,
    selected: Mapping[str, Bool[Tensor, "..."]] | None = None,
    high: float = 0.0,
) -> None:
    """(1 - share) · (W + share · noise of W's deviation), in place, for every matrix and kernel.

    share: in [0, 1); 0 changes nothing. selected: {name: mask} of the weights whose share is `high`
    instead. The noise of a weight depends on its name and the seed alone.
    """
    if not share and selected is None:
        return
    for name, weight in matrices(model).items():
        noise = torch.randn(weight.shape, generator=generator(f"perturb/{name}", seed))
        scaled = noise.to(weight) * weight.std()
        if selected is None:
            weight.add_(scaled, alpha=share).mul_(1 - share)
        else:
            shares = torch.full_like(weight, share).masked_fill(selected[name], high)
            weight.add_(scaled * shares).mul_(1 - shares)
