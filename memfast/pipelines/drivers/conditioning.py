"""What a denoiser is told besides the noisy latents and their time: a frozen bundle of tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Index = slice | Tensor | Sequence[int]


@dataclass(frozen=True)
class Conditioning:
    """Arguments of a denoiser's forward pass, by name ("a.b" stands for b in the dict a).

    leaves: tensors with one row a prompt. shared: what is the same for every prompt.
    searched: the leaves that an attacker may search. text_rows: which of a prompt's rows in the
    text stream are its own, False on padding; None where no text passes a feed-forward.
    """

    leaves: Mapping[str, Tensor]
    searched: tuple[str, ...]
    shared: Mapping[str, Any] = field(default_factory=dict)
    text_rows: Bool[Tensor, "prompts tokens"] | None = None

    def __len__(self) -> int:
        return len(self.leaves[self.searched[0]])

    def __getitem__(self, rows: Index) -> "Conditioning":
        """The prompts at these rows."""
        return self._each(lambda leaf: leaf[rows])

    def digest(self, prompt: int) -> bytes:
        """Identifies what a prompt's searched leaves hold."""
        total = sha256()
        for name, leaf in self.searching().items():
            row = leaf[prompt].detach().cpu().contiguous()
            total.update(f"{name}{row.dtype}{tuple(row.shape)}".encode())
            total.update(row.flatten().view(torch.uint8).numpy().data)
        return total.digest()

    def expand(self, prompts: int) -> "Conditioning":
        """A single prompt's, for so many."""
        return self._each(lambda leaf: leaf.expand(prompts, *leaf.shape[1:]).contiguous())

    def repeat_interleave(self, times: int) -> "Conditioning":
        """Each prompt so many times, one after another."""
        return self._each(lambda leaf: leaf.repeat_interleave(times, 0))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """All leaves on another device; floating leaves in another dtype."""

        def moved(leaf: Tensor) -> Tensor:
            return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

        return self._each(moved)

    def cast(self, dtype: torch.dtype, but: Sequence[str] = ()) -> "Conditioning":
        """Floating leaves, `but` for some, in the dtype of the denoiser that is told them."""
        wrong = {
            name: leaf.to(dtype)
            for name, leaf in self.leaves.items()
            if leaf.is_floating_point() and leaf.dtype != dtype and name not in but
        }
        return self.told(wrong) if wrong else self

    def searching(self) -> dict[str, Tensor]:
        """The leaves that an attacker may search."""
        return {name: self.leaves[name] for name in self.searched}

    def sought(self) -> dict[str, Tensor]:
        """Copies of the searched leaves for an optimiser, of float32 at least: Adam's epsilon is 0
        in half precision. They ask for gradients."""
        return {
            name: leaf.detach()
            .to(torch.promote_types(leaf.dtype, torch.float32), copy=True)
            .requires_grad_()
            for name, leaf in self.searching().items()
        }

    def found(self, sought: Mapping[str, Tensor]) -> "Conditioning":
        """The same with what an optimiser made of `sought`, in each leaf's own dtype."""
        return self.told({n: leaf.to(self.leaves[n].dtype) for n, leaf in sought.items()})

    def told(self, leaves: Mapping[str, Tensor]) -> "Conditioning":
        """The same with other tensors in place of some leaves."""
        return replace(self, leaves={**self.leaves, **leaves})

    def searched_by(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """The same with `change` applied to every leaf that may be searched."""
        return self.told({name: change(leaf) for name, leaf in self.searching().items()})

    def blended(self, share: Float[Tensor, " prompts"]) -> "Conditioning":
        """Each prompt's searched leaves moved by a share towards those of the one before."""

        def blend(leaf: Tensor) -> Tensor:
            return leaf.lerp(leaf.roll(1, 0), share.to(leaf).view(-1, *(1,) * (leaf.ndim - 1)))

        return self.searched_by(blend)

    def with_rows(self, chosen: Bool[Tensor, " prompts"], other: "Conditioning") -> "Conditioning":
        """The same with a single prompt's conditioning in place of the chosen rows."""
        rows = torch.arange(len(self)).masked_fill(chosen.cpu(), len(self))
        return Conditioning.cat([self, other])[rows]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        leaves = {name: change(leaf) for name, leaf in self.leaves.items()}
        rows = None if self.text_rows is None else change(self.text_rows)
        return replace(self, leaves=leaves, text_rows=rows)

    @staticmethod
    def cat(parts: "Sequence[Conditioning]") -> "Conditioning":
        """Several prompts' as one; leaves of fewer tokens are padded with zeros."""
        first = parts[0]
        if len(parts) == 1:
            return first
        leaves = {name: cat_padded([part.leaves[name] for part in parts]) for name in first.leaves}
        rows = None
        if first.text_rows is not None:
            rows = cat_padded([part.text_rows for part in parts if part.text_rows is not None])
        return replace(first, leaves=leaves, text_rows=rows)


def rows_of_each(labels: Int64[Tensor, " rows"]) -> list[Tensor]:
    """The rows of every label, on the CPU."""
    labels = labels.cpu()
    return [(labels == label).nonzero().flatten() for label in labels.unique()]


def cat_padded(parts: Sequence[Tensor]) -> Tensor:
    """Tensors [rows, tokens, ...] as one, padded with zeros (False) to the most tokens."""
    tokens = max(part.shape[1] if part.ndim > 1 else 0 for part in parts)
    return torch.cat([_padded(part, tokens) for part in parts])


def _padded(part: Tensor, tokens: int) -> Tensor:
    missing = tokens - part.shape[1] if part.ndim > 1 else 0
    return F.pad(part, (0, 0) * (part.ndim - 2) + (0, missing)) if missing else part
