"""Ids that stand for two captions: what is kept by id would mix them up."""

from array import array
from collections.abc import Iterable
from hashlib import blake2b

from memfast.prompts.prompt import Prompt, PromptSet


def clashing_ids(prompts: PromptSet, most: int = 5) -> dict[str, tuple[Prompt, Prompt]]:
    """The first `most` ids that are given to different captions, each with the first two prompts
    of it that differ. Takes 16 bytes a prompt, and a second pass only where there are some."""
    import numpy as np

    pairs = np.array(_hashes(prompts), np.uint64).reshape(-1, 2)
    unique = np.unique(pairs, axis=0)
    ids, captions = np.unique(unique[:, 0], return_counts=True)
    clashing = set(ids[captions > 1].tolist())
    first: dict[str, Prompt] = {}
    found: dict[str, tuple[Prompt, Prompt]] = {}
    for prompt in prompts if clashing else ():
        if len(found) < most and _hash(prompt.id) in clashing:
            other = first.setdefault(prompt.id, prompt)
            if other.text != prompt.text:
                found.setdefault(prompt.id, (other, prompt))
    return found


def _hashes(prompts: Iterable[Prompt]) -> array:
    hashes = array("Q")
    for prompt in prompts:
        hashes.extend((_hash(prompt.id), _hash(prompt.text)))
    return hashes


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
