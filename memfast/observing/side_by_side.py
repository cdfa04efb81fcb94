"""All neurons of all sites as one row of segments, so that one merge serves the whole model."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from jaxtyping import Float64
from memfast_kernels import Moments
from torch import Tensor

_FIELDS = [field.name for field in fields(Moments)]


def side_by_side(seen: Mapping[str, Moments], norms: bool) -> Moments:
    """The neurons of all sites in a row: count [images, neurons], the rest [images, neurons, 1].

    With `norms`, as many again: each image's root mean square, as a sample of one.
    """
    parts = list(seen.values())
    if norms:
        parts += [_norms(moments) for moments in parts]
    count = torch.cat([part.count[:, None].expand_as(part.mean) for part in parts], 1)
    others = (torch.cat([getattr(part, name) for part in parts], 1) for name in _FIELDS[1:])
    return Moments(count, *(column[..., None] for column in others))


def merge_in_order(state: Moments, images: Moments) -> Moments:
    """`state`, one image's of `side_by_side`, joined with one image after another.

    As `merge` one by one; batches that cut the images elsewhere give the same bits.
    """
    before = torch.cat([state.count[None], images.count]).cumsum(0)
    share = (images.count.double() / before[1:].clamp(min=1))[..., None]
    mean, deltas = state.mean, []
    for place, of_image in enumerate(images.mean):
        deltas.append(of_image - mean)
        mean = mean + deltas[-1] * share[place]
    between = torch.stack(deltas).square() * (before[:-1, :, None] * share)
    m2 = state.m2
    for of_image in images.m2 + between:
        m2 = m2 + of_image
    return Moments(
        before[-1],
        mean,
        m2,
        torch.maximum(state.max_abs, images.max_abs.amax(0)),
        state.nonzero + images.nonzero.sum(0),
    )


def by_site(
    steps: Sequence[Moments], sites: Mapping[str, int]
) -> tuple[dict[str, Moments], dict[str, Moments]]:
    """Back from one image's Moments a step to {site: Moments [steps, neurons]}, and its norms'."""
    widths = list(sites.values()) * (len(steps[0].count) // sum(sites.values()))
    count, *others = (
        torch.stack([getattr(step, name).flatten() for step in steps]).split(widths, dim=1)
        for name in _FIELDS
    )
    parts = [Moments(rows[:, 0], *columns) for rows, *columns in zip(count, *others, strict=True)]
    moments, norms = parts[: len(sites)], parts[len(sites) :]
    return dict(zip(sites, moments, strict=True)), dict(zip(sites, norms, strict=False))


def sample(value: Float64[Tensor, "images neurons"]) -> Moments:
    """One number an image and neuron, as statistics of that number alone."""
    return Moments(
        count=torch.ones(len(value), dtype=torch.int64),
        mean=value,
        m2=torch.zeros_like(value),
        max_abs=value.abs().float(),
        nonzero=(value != 0).long(),
    )


def _norms(moments: Moments) -> Moments:
    """Each image's root mean square over its rows, as a sample of one."""
    return sample(moments.l2_norm / moments.count.clamp(min=1).double().sqrt()[:, None])
