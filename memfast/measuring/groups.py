"""Duplicate groups: prompts that say nearly the same, or whose training images look alike.

Everything that splits or resamples prompts does so by group, so that a near-twin never stands on
both sides of a split and never counts as a second independent observation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from memfast.measuring.distances import DUPLICATE, root_mean_square
from memfast.prompts.groups import components, deal, near_duplicates

__all__ = ["components", "duplicate_groups", "halves"]


def duplicate_groups(
    texts: Sequence[str], images: Sequence[Tensor | None] | None = None
) -> list[int]:
    """A group number for each prompt, from 0, in order of first appearance.

    Two prompts share a group when their words agree (`memfast.prompts.groups`) or when any of their
    training images ([k, 3, h, w] each) lie within 0.05 root mean square of each other; chains join.
    """
    edges = near_duplicates(texts)
    shown = [(index, stack) for index, stack in enumerate(images or ()) if stack is not None]
    if shown:
        flat = torch.cat([stack for _, stack in shown])
        owner = [index for index, stack in shown for _ in range(len(stack))]
        near = root_mean_square(flat, flat) < DUPLICATE
        edges += [(owner[a], owner[b]) for a, b in near.triu(1).nonzero().tolist()]
    return components(len(texts), edges)


def halves(groups: Sequence[int], seed: int) -> tuple[list[int], list[int]]:
    """The prompts' indices in two parts of nearly equal size, no group in both."""
    first, second = deal(groups, 2, seed)
    return first, second
