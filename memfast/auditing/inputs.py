"""What an audit is given, opened and identified."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from memfast.auditing.storing.index import Index, look_of
from memfast.errors import InputError
from memfast.prompts import BORNE, Prompt, PromptSet, inputs, open_list, text_id
from memfast.selection import Subspace

FEWEST = 20  # reference prompts: a standard deviation of fewer means little
OWN_REFERENCE = 500  # prompts of the audited list that stand in where no reference is given

Prompts = PromptSet | Sequence[str] | Path | str  # a set, or the path of a file


@dataclass(frozen=True)
class Audited:
    """The prompts to audit, their index, and the file and column they come from, if from one."""

    prompts: PromptSet
    index: Index
    path: Path | None = None
    column: str | None = None

    @classmethod
    def open(cls, prompts: Prompts, column: str | None, max_rejected: int = BORNE) -> "Audited":
        """One pass over the prompts. Raises InputError for what `open_list` refuses."""
        if isinstance(prompts, str | Path):
            found = open_list(prompts, column, max_rejected)
            return cls(found, Index.of(found), Path(prompts), column)
        found = PromptSet.of(prompts)
        return cls(found, Index.of(found))

    @property
    def rejected(self) -> str:
        """The rows that were left out, one JSON object a line."""
        return self.prompts.rejected.text() if self.prompts.rejected else ""

    def __iter__(self) -> Iterator[Prompt]:
        """The prompts, as they were. Raises InputError, with the line, where the list changed."""
        return self.index.again(self.prompts)


@dataclass(frozen=True)
class Examples:
    """Prompts that calibration learns from; `own`: the reference is a part of the audited list.
    told: what a summary says of the lists that they come from."""

    reference: list[Prompt]
    memorized: list[Prompt]
    own: bool
    told: dict[str, Any]

    @classmethod
    def of(
        cls, reference: Prompts | None, memorized: Prompts | None, audited: Audited
    ) -> "Examples":
        """Duplicated texts count once. Raises InputError for sets that share a text or are too
        small: less than 20 reference prompts, or one memorized; and for a reference that is the
        audited list."""
        lists = {
            role: _opened(given)
            for role, given in (("reference", reference), ("memorized", memorized))
            if given is not None
        }
        positive = _once(lists["memorized"]) if "memorized" in lists else []
        texts = {prompt.text for prompt in positive}
        own = reference is None
        negative = sample(audited, OWN_REFERENCE, texts) if own else _once(lists["reference"])
        if both := texts & {prompt.text for prompt in negative}:
            raise InputError(f"memorized and reference share {len(both)} prompts: {min(both)!r}")
        if len(negative) < FEWEST:
            raise InputError(f"reference: {len(negative)} prompts are too few; at least {FEWEST}")
        if not own and is_list(negative, audited):
            raise InputError(
                f"reference: is the audited list, all {len(negative)} prompts of it; give prompts "
                "that are known not to be memorized, or none: then the list stands on itself"
            )
        if len(positive) == 1:
            raise InputError("memorized: one example is too few; at least 2")
        return cls(negative, positive, own, inputs(**lists))

    @property
    def seen(self) -> list[str]:
        """The ids of all these texts, by text alone."""
        return sorted({text_id(prompt.text) for prompt in self.reference + self.memorized})

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


def _opened(prompts: Prompts) -> PromptSet:
    return open_list(prompts) if isinstance(prompts, str | Path) else PromptSet.of(prompts)


def _once(prompts: Iterable[Prompt]) -> list[Prompt]:
    found: dict[bytes, Prompt] = {}
    for prompt in prompts:
        found.setdefault(look_of(prompt), prompt)
    return list(found.values())


def is_list(prompts: Sequence[Prompt], audited: Audited) -> bool:
    """Whether these, each once, are the audited list."""
    if len(prompts) != audited.index.texts:
        return False
    looks = {look_of(prompt) for prompt in prompts}
    return all(look_of(prompt) in looks for prompt in audited)


def sample(prompts: Iterable[Prompt], count: int, without: Collection[str] = ()) -> list[Prompt]:
    """Those of smallest hash: a sample that does not depend on the list's order."""
    kept: list[tuple[int, bytes]] = []  # a heap whose top is the largest hash
    members: dict[bytes, Prompt] = {}
    for prompt in prompts:
        look = look_of(prompt)
        if look in members or prompt.text in without:
            continue
        entry = (-int.from_bytes(blake2b(look, digest_size=16).digest()), look)
        if len(kept) < count:
            heapq.heappush(kept, entry)
            members[look] = prompt
        elif entry > kept[0]:
            del members[heapq.heappushpop(kept, entry)[1]]
            members[look] = prompt
    return [members[look] for _, look in sorted(kept, reverse=True)]


def _digest(prompts: Iterable[Prompt]) -> str:
    return sha256(b"\0".join(map(look_of, prompts))).hexdigest()[:32]
