"""Distances between sets of images by their features: FID and KID.

A feature distance carries its network's name: with the offline network it is not Inception FID,
and the two never compare.
"""

import torch
from jaxtyping import Float
from torch import Tensor

First = Float[Tensor, "first features"]
Second = Float[Tensor, "second features"]


def frechet_distance(first: First, second: Second) -> float:
    """The squared Frechet distance of two Gaussians fitted to features (Heusel et al. 2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) in float64. With C1 = A'A and C2 = B'B the trace of
    that root is the sum of the singular values of AB', so no complex root arises. With fewer
    images than feature dimensions the covariances are singular and the estimate is biased
    upwards: compare only distances of equal image counts. Raises ValueError for fewer than two
    images a side.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"features: 2 images a side at least, got {len(first)}, {len(second)}")
    one, two = first.double(), second.double()
    gap = (one.mean(0) - two.mean(0)).square().sum()
    one, two = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (one, two))
    total = one.square().sum() + two.square().sum()
    one, two = (torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x for x in (one, two))
    cross = torch.linalg.svdvals(one @ two.T).sum()
    return float((gap + total - 2 * cross).clamp_min(0))


def kernel_distance(first: First, second: Second) -> float:
    """KID: the unbiased squared maximum mean discrepancy with (x.y/d + 1)^3 (Binkowski 2018).

    Over all images at once rather than the mean over random subsets: the same expectation and no
    random draw. May be slightly negative. Raises ValueError for fewer than two images a side.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"features: 2 images a side at least, got {len(first)}, {len(second)}")
    one, two = first.double(), second.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        values = kernel(x, x)
        return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))

    return float(within(one) + within(two) - 2 * kernel(one, two).mean())
