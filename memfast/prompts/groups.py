"""Near-duplicate groups: captions that say nearly the same, and parts that never split a group.

Everything that splits or resamples prompts does so by group, so that a near-twin never stands on
both sides of a split and never counts as a second independent observation.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from memfast.errors import InputError
from memfast.prompts.prompt import Prompt, PromptSet

SAME_WORDS = 0.5
"""Jaccard index of the words from which two captions are one group: in the public lists of
memorized prompts it joins a template's captions ("Melrose Gray/Blue Area Rug by Andover Mills")."""


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of indices whose words agree, their Jaccard index at least SAME_WORDS.

    Words that half of the texts use do not count. MinHash finds the candidates (Broder
    1997; 128 permutations of a fixed seed, so that results repeat), and each is then checked.
    """
    from datasketch import MinHash, MinHashLSH

    words = [frozenset(text.lower().replace(",", " ").split()) for text in texts]
    frequency = Counter(word for each in words for word in each)
    common = {word for word, count in frequency.items() if 2 * count >= len(texts)}
    words = [each - common or each for each in words]
    index = MinHashLSH(threshold=SAME_WORDS - 0.1, num_perm=128, weights=(0.1, 0.9))
    pairs = []
    for place, each in enumerate(words):
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([word.encode() for word in sorted(each)])
        for other in sorted(index.query(sketch)):  # type: ignore[type-var]
            both = len(each & words[other])
            if both >= SAME_WORDS * (len(each) + len(words[other]) - both):
                pairs.append((other, place))
        index.insert(place, sketch)
    return pairs


def prompt_groups(prompts: Iterable[Prompt]) -> list[int]:
    """A group number for each prompt: the list's own groups joined with near-duplicate captions."""
    prompts = list(prompts)
    pairs = near_duplicates([prompt.text for prompt in prompts])
    first: dict[str, int] = {}
    for place, prompt in enumerate(prompts):
        if prompt.group is not None:
            pairs.append((first.setdefault(prompt.group, place), place))
    return components(len(prompts), pairs)


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


def deal(groups: Sequence[int], parts: int, seed: int) -> list[list[int]]:
    """The prompts' indices in `parts` parts of nearly equal size, no group in two of them.

    Groups are dealt, the largest first and equal ones in random order, each to the smallest part.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    hands = list(members.values())
    Random(seed).shuffle(hands)
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for hand in sorted(hands, key=len, reverse=True):
        min(dealt, key=len).extend(hand)
    return [sorted(part) for part in dealt]


def equal_sets(prompts: PromptSet, sets: int, size: int, seed: int) -> list[PromptSet]:
    """Disjoint sets of at most `size` prompts each, none of which share a duplicate group.

    Raises InputError if there are not enough groups.
    """
    listed = list(prompts)
    groups = prompt_groups(listed)
    dealt = [part[:size] for part in deal(groups, sets, seed)]
    if not all(dealt):
        raise InputError(f"{prompts.name}: {len(set(groups))} groups do not make {sets} sets")
    return [PromptSet.of([listed[place] for place in part]) for part in dealt]
