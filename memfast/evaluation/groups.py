"""Duplicate groups: prompts that say nearly the same, or whose training images look alike.

Everything that splits or resamples prompts does so by group, so that a near-twin never stands on
both sides of a split and never counts as a second independent observation.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from memfast.evaluation.distances import DUPLICATE, root_mean_square

SAME_WORDS = 0.8  # Jaccard index of the words, from which two prompts are one group


def components(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """A group number for each of `count` nodes: connected components, in order of first node."""
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for first, second in edges:
        low, high = sorted((find(first), find(second)))
        root[high] = low
    numbers: dict[int, int] = {}
    return [numbers.setdefault(find(node), len(numbers)) for node in range(count)]


def _alike(texts: Sequence[str]) -> list[tuple[int, int]]:
    words = [frozenset(text.lower().replace(",", " ").split()) for text in texts]
    frequency = Counter(word for each in words for word in each)
    common = {word for word, count in frequency.items() if 2 * count > len(texts)}
    rare = [each - common or each for each in words]
    holders: dict[str, list[int]] = {}
    edges = []
    for index, each in enumerate(rare):
        shared = Counter(other for word in each for other in holders.get(word, ()))
        for other, both in shared.items():
            if both >= SAME_WORDS * (len(each) + len(rare[other]) - both):
                edges.append((other, index))
        for word in each:
            holders.setdefault(word, []).append(index)
        if not each:
            edges.extend((other, index) for other in range(index) if not rare[other])
    return edges


def duplicate_groups(
    texts: Sequence[str], images: Sequence[Tensor | None] | None = None
) -> list[int]:
    """A group number for each prompt, from 0, in order of first appearance.

    Two prompts share a group when their words agree (Jaccard index at least 0.8, without words
    that more than half of the prompts use) or when any of their training images ([k, 3, h, w]
    each) lie within 0.05 root mean square of each other; chains join.
    """
    edges = _alike(texts)
    shown = [(index, stack) for index, stack in enumerate(images or ()) if stack is not None]
    if shown:
        flat = torch.cat([stack for _, stack in shown])
        owner = [index for index, stack in shown for _ in range(len(stack))]
        near = root_mean_square(flat, flat) < DUPLICATE
        edges += [(owner[a], owner[b]) for a, b in near.triu(1).nonzero().tolist()]
    return components(len(texts), edges)


def halves(groups: Sequence[int], seed: int) -> tuple[list[int], list[int]]:
    """The prompts' indices in two parts of nearly equal size, no group in both.

    Groups are dealt in random order, each to the part that is smaller so far.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist()
    keys = list(members)
    parts: tuple[list[int], list[int]] = ([], [])
    for number in sorted(order, key=lambda n: -len(members[keys[n]])):
        min(parts, key=len).extend(members[keys[number]])
    return sorted(parts[0]), sorted(parts[1])
