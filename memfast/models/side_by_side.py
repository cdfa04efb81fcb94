"""All neurons of all sites as one row of segments, so that one merge serves the whole model."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from memfast_kernels import Moments

_FIELDS = [field.name for field in fields(Moments)]


def side_by_side(seen: Mapping[str, Moments], norms: bool) -> Moments:
    """The neurons of all sites in a row: count [images, neurons], the rest [images, neurons, 1].

    With `norms`, as many again: each image's root mean square, as a sample of one.
    """
    parts = list(seen.values())
    if norms:
        parts += [_sample(moments) for moments in parts]
    count = torch.cat([part.count[:, None].expand_as(part.mean) for part in parts], 1)
    others = (torch.cat([getattr(part, name) for part in parts], 1) for name in _FIELDS[1:])
    return Moments(count, *(column[..., None] for column in others))


def image_of(images: Moments, place: int) -> Moments:
    """One image of `side_by_side`'s: count [neurons], the rest [neurons, 1]."""
    return Moments(*(getattr(images, name)[place] for name in _FIELDS))


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


def _sample(moments: Moments) -> Moments:
    """Each image's root mean square over its rows, as statistics of that one number."""
    value = moments.l2_norm / moments.count.clamp(min=1).sqrt()[:, None]
    return Moments(
        count=(moments.count > 0).long(),
        mean=value,
        m2=torch.zeros_like(value),
        max_abs=value.float(),
        nonzero=(value != 0).long(),
    )
