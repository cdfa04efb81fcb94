"""One pass over a prompt list: what is in it and which rows repeat; and whether it is still so."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from memfast.errors import InputError
from memfast.prompts import Prompt, PromptSet


@dataclass(frozen=True)
class Index:
    """24 bytes a prompt, and no text.

    unique: of every prompt, the number of its text and own seed in order of first appearance.
    first: whether it is that first appearance. digest: sha256 over ids, texts and own seeds, as
    PromptSet's. marks: a hash of the whole row.
    """

    unique: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    first: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    digest: str
    marks: "array[int]"

    @classmethod
    def of(cls, prompts: PromptSet) -> "Index":
        """The index of `prompts`, in one pass. Raises InputError when there are none."""
        keys, marks, total = array("Q"), array("Q"), hashlib.sha256()
        for prompt in prompts:
            keys.frombytes(blake2b(look_of(prompt), digest_size=16).digest())
            marks.append(_mark(prompt))
            total.update(prompt.identity)
        if not keys:
            raise InputError(f"{prompts.name}: holds no prompt")
        pairs = np.frombuffer(keys, np.uint64).view([("high", np.uint64), ("low", np.uint64)])
        _, first_at, group = np.unique(pairs, return_index=True, return_inverse=True)
        number = np.empty(len(first_at), np.int64)
        number[np.argsort(first_at)] = np.arange(len(first_at))
        first = np.zeros(len(pairs), np.bool_)
        first[first_at] = True
        return cls(number[group], first, total.hexdigest(), marks)

    @property
    def prompts(self) -> int:
        return len(self.unique)

    @property
    def texts(self) -> int:
        """Number of different texts; one with another seed of its own is another."""
        return int(self.first.sum())

    def again(self, prompts: PromptSet) -> Iterator[Prompt]:
        """The prompts, each as it was when the index was made.

        Raises InputError, with the line, at the first that is not.
        """
        number = 0
        for prompt in prompts:
            if number == len(self.marks) or self.marks[number] != _mark(prompt):
                raise InputError(_changed(prompts, f"line {prompt.line}"))
            number += 1
            yield prompt
        if number < len(self.marks):
            raise InputError(_changed(prompts, f"only {number} of {len(self.marks)} prompts left"))

    def firsts(self, prompts: PromptSet) -> Iterator[Prompt]:
        """The prompts that are looked at, in order: of those of one text and seed, the first."""
        found = zip(self.again(prompts), self.first, strict=True)
        return (prompt for prompt, first in found if first)


def look_of(prompt: Prompt) -> bytes:
    """What a look at a prompt depends on: its text, and its own seed where it has one."""
    own = b"" if prompt.seed is None else b"\0" + prompt.seed.to_bytes(8, "little")
    return prompt.text.encode() + own


def _mark(prompt: Prompt) -> int:
    return int.from_bytes(blake2b(repr(prompt).encode(), digest_size=8).digest(), "little")


def _changed(prompts: PromptSet, where: str) -> str:
    return (
        f"{prompts.name}: has changed since the audit read it first ({where}); "
        "what was computed is kept: put the list back as it was, or audit it anew"
    )
