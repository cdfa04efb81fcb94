"""One pass over a prompt list: what is in it, which texts repeat, which rows are bad."""

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from memfast.errors import InputError
from memfast.files import atomic_write_text
from memfast.prompts import Prompt, PromptSet, Rejected


@dataclass(frozen=True)
class Index:
    """24 bytes a prompt, and no text.

    unique: of every prompt, the number of its text in order of first appearance. first: whether it
    is that first appearance. digest: sha256 over ids and texts, as PromptSet's.
    """

    unique: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    first: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    digest: str

    @classmethod
    def of(cls, prompts: PromptSet) -> "Index":
        """The index of `prompts`, in one pass. Raises InputError when there are none."""
        keys, total = array("Q"), hashlib.sha256()
        for prompt in prompts:
            key = hashlib.blake2b(prompt.text.encode(), digest_size=16).digest()
            keys.frombytes(key)
            total.update(prompt.identity)
        if not keys:
            raise InputError(f"{prompts.name}: holds no prompt")
        pairs = np.frombuffer(keys, np.uint64).view([("high", np.uint64), ("low", np.uint64)])
        _, first_at, group = np.unique(pairs, return_index=True, return_inverse=True)
        number = np.empty(len(first_at), np.int64)
        number[np.argsort(first_at)] = np.arange(len(first_at))
        first = np.zeros(len(pairs), np.bool_)
        first[first_at] = True
        return cls(number[group], first, total.hexdigest())

    @property
    def prompts(self) -> int:
        return len(self.unique)

    @property
    def texts(self) -> int:
        """Number of different texts."""
        return int(self.first.sum())

    def firsts(self, prompts: PromptSet) -> Iterator[Prompt]:
        """The prompts whose text appears for the first time, in order."""
        return (prompt for prompt, first in zip(prompts, self.first, strict=True) if first)


class RejectedRows:
    """Takes the bad rows of a list, on the first pass over it; more than `limit` stop the run."""

    def __init__(self, limit: int) -> None:
        self.limit, self.rows = limit, dict[int, Rejected]()

    def __call__(self, row: Rejected) -> None:
        self.rows.setdefault(row.line, row)
        if len(self.rows) > self.limit:
            raise InputError(
                f"more than {self.limit} bad rows (--max-rejected); "
                f"line {row.line}: {row.reason}: {row.start}"
            )

    def write(self, path: Path) -> None:
        """One JSON object a row, in the order of the lines; no file when there are none."""
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.rows.values()]
        if lines:
            atomic_write_text(path, "".join(lines))
