"""Distances and structural similarities between images, as pure functions.

Images are float tensors [images, channels, height, width] in [0, 1]. A mask, where one is taken,
is a bool tensor [images, height, width]; only its True pixels count.
"""

from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

TILES = 4  # Carlini's tiled distance: 4 x 4 tiles
NEIGHBOURS = 50  # Carlini's ratio: the mean over the 50 nearest other training images
DUPLICATE = 0.05  # two training images nearer than this (root mean square) count as one
WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2  # for a data range of 1
AT_ONCE = 1 << 28  # bytes of other images, or of pairs
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, five scales

Images = Float[Tensor, "images channels height width"]
Others = Float[Tensor, "others channels height width"]
Mask = Bool[Tensor, "images height width"]


def tiled_l2(images: Images, own: Images, mask: Mask | None = None) -> Float[Tensor, " images"]:
    """The largest over 4 x 4 tiles of the root mean squared difference, in [0, 1].

    Source: Carlini et al. 2023 (arXiv 2301.13188), the modified distance of their extraction.
    A masked tile without any counting pixel is left out.
    """
    squares = (images - own).square().mean(1, keepdim=True)
    if mask is None:
        return F.adaptive_avg_pool2d(squares, TILES).flatten(1).amax(1).sqrt()
    weight = mask[:, None].to(squares.dtype)
    share = F.adaptive_avg_pool2d(weight, TILES)
    means = F.adaptive_avg_pool2d(squares * weight, TILES) / share.clamp_min(1e-12)
    return means.flatten(1).amax(1).sqrt()


def root_mean_square(
    images: Images, others: Others, mask: Mask | None = None
) -> Float[Tensor, "images others"]:
    """Root mean squared difference of every image to every other one, in [0, 1]. `others` may be
    many, and elsewhere.

    Differences are summed directly, never as |a|^2 - 2ab + |b|^2: that form leaves identical
    images some 1e-3 apart, and an exclusion of duplicates by distance would then miss them.
    """
    size = max(1, AT_ONCE // max(1, 4 * others[:1].numel()))
    parts = [_rms_to(images, part.to(images.device), mask) for part in others.split(size)]
    return torch.cat(parts, 1) if parts else images.new_zeros((len(images), 0))


def _rms_to(images: Tensor, others: Tensor, mask: Mask | None) -> Tensor:
    if mask is None:
        flat = others.flatten(1)
        distance = torch.cdist(images.flatten(1), flat, compute_mode="donot_use_mm_for_euclid_dist")
        return distance / flat.shape[1] ** 0.5
    rows = [_rms(image - others, weight[None]) for image, weight in zip(images, mask, strict=True)]
    return torch.stack(rows) if rows else images.new_zeros((0, len(others)))


def _rms(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Root mean square of each difference over its channels and counting pixels."""
    squares = difference.square().mean(1)
    if mask is None:
        return squares.mean((1, 2)).sqrt()
    weight = mask.to(squares.dtype)
    return ((squares * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)).sqrt()


def l2_ratio(
    images: Images, own: Images, others: Others, mask: Mask | None = None
) -> Float[Tensor, " images"]:
    """Distance to the own training image over the mean distance to the 50 nearest others.

    `others` may hold the own image and its duplicates: whatever lies within 0.05 of the own image
    is left out. With fewer than 50 others all of them are used; with none the ratio is NaN.
    Source: Carlini et al. 2023, whose alpha = 0.5 is this ratio's threshold.
    """
    mine = _rms(images - own, mask)
    if not len(others):
        return torch.full_like(mine, float("nan"))
    twins = root_mean_square(own, others) < DUPLICATE
    distances = root_mean_square(images, others, mask).masked_fill(twins, float("inf"))
    nearest = distances.topk(min(NEIGHBOURS, len(others)), dim=1, largest=False).values
    counted = nearest.isfinite()
    total = nearest.masked_fill(~counted, 0).sum(1)
    return mine / (total / counted.sum(1))


def _blur(images: Tensor) -> Tensor:
    """Gaussian mean over every full 11 x 11 window: [n, c, h, w] -> [n, c, h - 10, w - 10]."""
    axis = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    kernel = torch.exp(-axis.square() / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    rows = F.conv2d(images, kernel, groups=images.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


def _maps(images: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps of Wang et al. 2004."""
    if min(images.shape[-2:]) < WINDOW:
        raise ValueError(
            f"images: structural similarity needs at least {WINDOW} x {WINDOW} pixels, "
            f"got {images.shape[-2]} x {images.shape[-1]}"
        )
    mean, own_mean = _blur(images), _blur(own)
    variance = _blur(images * images) - mean * mean
    own_variance = _blur(own * own) - own_mean * own_mean
    covariance = _blur(images * own) - mean * own_mean
    luminance = (2 * mean * own_mean + C1) / (mean * mean + own_mean * own_mean + C1)
    contrast = (2 * covariance + C2) / (variance + own_variance + C2)
    return luminance, contrast


def _mean(values: Tensor, mask: Mask | None) -> Tensor:
    """The mean of a map over channels and over the windows centred on counting pixels."""
    values = values.mean(1)
    if mask is None:
        return values.mean((1, 2))
    edge = WINDOW // 2
    weight = mask[:, edge:-edge, edge:-edge].to(values.dtype)
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)


def in_parts(metric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The metric on any number of pairs, some at a time."""

    @wraps(metric)
    def whole(images: Images, own: Images, mask: Mask | None = None) -> Tensor:
        size = max(1, AT_ONCE // max(1, 4 * images[:1].numel()))
        if len(images) <= size:
            return metric(images, own, mask)
        masks = [None] * len(images) if mask is None else mask.split(size)
        pairs = zip(images.split(size), own.split(size), masks, strict=False)
        return torch.cat([metric(*pair) for pair in pairs])

    return whole


@in_parts
def ssim(images: Images, own: Images, mask: Mask | None = None) -> Float[Tensor, " images"]:
    """Structural similarity, at most 1: Gaussian window of 11 pixels (sigma 1.5), data range 1.

    Source: Wang et al. 2004; equal to scikit-image's with `gaussian_weights=True`,
    `use_sample_covariance=False`. Raises ValueError for images under 11 x 11 pixels.
    """
    luminance, contrast = _maps(images, own)
    return _mean(luminance * contrast, mask)


def scales_of(height: int, width: int) -> int:
    """How many of MS-SSIM's five scales an image of this size has room for."""
    scales = 0
    while scales < len(SCALE_WEIGHTS) and min(height, width) >> scales >= WINDOW:
        scales += 1
    return scales


@in_parts
def ms_ssim(images: Images, own: Images, mask: Mask | None = None) -> Float[Tensor, " images"]:
    """Multi-scale structural similarity, in [0, 1].

    Source: Wang et al. 2003, with as many of the five scales as the image has room for (two for
    32 x 32 pixels) and their weights renormalised. Negative structure counts as 0.
    """
    scales = max(scales_of(*images.shape[-2:]), 1)
    total = sum(SCALE_WEIGHTS[:scales])
    result = images.new_ones(len(images))
    for scale in range(scales):
        luminance, contrast = _maps(images, own)
        last = scale == scales - 1
        value = _mean(luminance * contrast if last else contrast, mask)
        result = result * value.clamp_min(0) ** (SCALE_WEIGHTS[scale] / total)
        images, own = F.avg_pool2d(images, 2), F.avg_pool2d(own, 2)
        mask = mask if mask is None else mask[:, ::2, ::2][:, : images.shape[2], : images.shape[3]]
    return result
