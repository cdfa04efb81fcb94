"""Guidance's rows with and without the prompt: telling a running denoiser another conditioning."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments
from memfast.pipelines.drivers.conditioning import Conditioning, cat_padded

CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"


class Telling:
    """Tells a running denoiser a conditioning in place of its prompts'."""

    def __init__(
        self,
        conditioning: Conditioning,
        own: Sequence[str],
        halves: Sequence[str],
        together: bool,
        guided: bool,
    ):
        """own: leaves that stay the pipeline's. halves, together: the order of guidance's rows."""
        self.halves, self.guided, self.together = halves, guided, guided and together
        self.leaves = {n: v for n, v in conditioning.leaves.items() if n not in own}
        self.shared = conditioning.shared
        self.rows = len(conditioning)
        self.calls = 0

    def __call__(self, seen: Arguments) -> Arguments:
        half = self.halves[self.calls % 2] if self.guided else CONDITIONAL
        self.calls += 1
        if self.together:
            return seen | {
                name: self._beside(seen[name], leaf) for name, leaf in self.leaves.items()
            }
        return seen if half == UNCONDITIONAL else {**seen, **self.leaves, **self.shared}

    def _beside(self, both: Tensor, leaf: Tensor) -> Tensor:
        """A leaf of both halves with the conditional one replaced."""
        parts = dict(zip(self.halves, both.split(self.rows), strict=True))
        parts[CONDITIONAL] = leaf
        return cat_padded([parts[half] for half in self.halves])


class Texts(list[str]):
    """Texts that may be indexed by lists of rows."""

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, Sequence | Tensor):
            return Texts(list.__getitem__(self, int(row)) for row in rows)
        found = super().__getitem__(rows)
        return Texts(found) if isinstance(rows, slice) else found
