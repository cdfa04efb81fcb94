"""What an audit is given, opened and identified."""

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from memfast.auditing.storing.index import Index, RejectedRows
from memfast.errors import InputError
from memfast.prompts import PromptSet, read_prompts, text_id
from memfast.selection import Subspace

FEWEST = 20  # reference prompts: a standard deviation of fewer means little
OWN_REFERENCE = 500  # prompts of the audited list that stand in where no reference is given

Prompts = PromptSet | Sequence[str] | Path | str  # a set, or the path of a file


@dataclass(frozen=True)
class Audited:
    """The prompts to audit, their index and the file they come from, where they come from one."""

    prompts: PromptSet
    index: Index
    rejected: RejectedRows
    path: str | None = None
    column: str | None = None

    @classmethod
    def open(cls, prompts: Prompts, column: str | None, max_rejected: int) -> "Audited":
        """One pass over the prompts. Raises InputError for what `read_prompts` refuses, and for
        more than `max_rejected` bad rows."""
        rejected = RejectedRows(max_rejected)
        if isinstance(prompts, str | Path):
            found = read_prompts(prompts, column, on_rejected=rejected)
            path = str(Path(prompts).resolve())
            return cls(found, Index.of(found), rejected, path, column)
        found = PromptSet.of(prompts)
        return cls(found, Index.of(found), rejected)


@dataclass(frozen=True)
class Examples:
    """Texts that calibration learns from; `own`: the reference is a part of the audited list."""

    reference: list[str]
    memorized: list[str]
    own: bool

    @classmethod
    def of(
        cls, reference: Prompts | None, memorized: Prompts | None, audited: PromptSet
    ) -> "Examples":
        """Duplicated texts count once. Raises InputError for sets that share a text or are too
        small: less than 20 reference prompts, or one memorized."""
        positive = _texts(memorized) if memorized is not None else []
        own = reference is None
        negative = (
            sample(audited, OWN_REFERENCE, set(positive))
            if reference is None
            else _texts(reference)
        )
        if both := set(positive) & set(negative):
            raise InputError(f"memorized and reference share {len(both)} prompts: {min(both)!r}")
        if len(negative) < FEWEST:
            raise InputError(f"reference: {len(negative)} prompts are too few; at least {FEWEST}")
        if len(positive) == 1:
            raise InputError("memorized: one example is too few; at least 2")
        return cls(negative, positive, own)

    @property
    def seen(self) -> list[str]:
        """The ids of all these texts, by text alone."""
        return sorted(text_id(text) for text in self.reference + self.memorized)

    def digests(self) -> dict[str, Any]:
        """What a manifest keeps of them."""
        return {"reference": _digest(self.reference), "memorized": _digest(self.memorized)}


def located_neurons(subspace: Subspace, sites: dict[str, int]) -> Bool[Tensor, " neurons"]:
    """The subspace's neurons as one mask over all sites of a model, side by side."""
    unknown = set(subspace.sites) - set(sites)
    if unknown:
        raise InputError(f"subspace: has the site {min(unknown)}, which this model has not")
    none = {site: torch.zeros(neurons, dtype=torch.bool) for site, neurons in sites.items()}
    mask = torch.cat(list((none | subspace.neurons).values()))
    if not mask.any():
        raise InputError("subspace: selects no neuron")
    return mask


def mask_digest(mask: Bool[Tensor, " neurons"] | None) -> str | None:
    """Identifies a mask."""
    return None if mask is None else sha256(mask.numpy().tobytes()).hexdigest()[:32]


def _texts(prompts: Prompts) -> list[str]:
    opened = read_prompts(prompts) if isinstance(prompts, str | Path) else PromptSet.of(prompts)
    return list(dict.fromkeys(opened.texts))


def sample(prompts: PromptSet, count: int, without: Collection[str] = ()) -> list[str]:
    """The texts of smallest hash: a sample that does not depend on the list's order."""
    kept: list[tuple[int, str]] = []  # a heap whose top is the largest hash
    members: set[str] = set()
    for prompt in prompts:
        text = prompt.text
        if text in members or text in without:
            continue
        entry = (-int.from_bytes(blake2b(text.encode(), digest_size=16).digest()), text)
        if len(kept) < count:
            heapq.heappush(kept, entry)
            members.add(text)
        elif entry > kept[0]:
            members.discard(heapq.heappushpop(kept, entry)[1])
            members.add(text)
    return [text for _, text in sorted(kept, reverse=True)]


def _digest(texts: Iterable[str]) -> str:
    return sha256("\0".join(texts).encode()).hexdigest()[:32]
