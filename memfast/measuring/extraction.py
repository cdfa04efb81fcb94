"""Carlini's extraction attack: which prompts return one image again and again?

Many seeds a prompt, an edge between two images whose tiled distance is under 0.15, and a prompt
counts as extracted when 10 or more images are all near each other (a clique). No training image is
needed. Source: Carlini et al. 2023 (arXiv 2301.13188).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.measuring.distances import tiled_l2

EDGE = 0.15
CLIQUE = 10
CAPACITY = 32  # cliques under construction that are kept a prompt


@dataclass(slots=True)
class Cliques:
    """Cliques of near images, found while images stream by, in memory that does not grow.

    Each image joins the first kept clique to all of whose kept members it is near, or starts a
    new one; a clique keeps its first `size` members, which are all near each other, and only
    counts later ones. When `capacity` is exceeded the smallest, oldest clique is dropped. So
    every reported clique is one, while one may be missed: by the greedy choice, or where more
    than `capacity` unrelated images stand between its members.
    """

    size: int = CLIQUE
    edge: float = EDGE
    capacity: int = CAPACITY
    members: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    seen: int = 0

    def add(self, images: Float[Tensor, "images 3 height width"]) -> None:
        """Take in more images of the same prompt, in order."""
        for image in images:
            self.seen += 1
            home = next((k for k, kept in enumerate(self.members) if self._near(image, kept)), None)
            if home is None:
                self.members.append(image[None].clone())
                self.counts.append(1)
                self._forget()
                continue
            self.counts[home] += 1
            if len(self.members[home]) < self.size:
                self.members[home] = torch.cat([self.members[home], image[None]])

    def _near(self, image: Tensor, kept: Tensor) -> bool:
        return bool((tiled_l2(image.expand_as(kept), kept) < self.edge).all())

    def _forget(self) -> None:
        if len(self.members) > self.capacity:
            smallest = min(range(len(self.counts)), key=self.counts.__getitem__)
            del self.members[smallest], self.counts[smallest]

    @property
    def largest(self) -> int:
        """How many images the largest clique drew, 0 before the first."""
        return max(self.counts, default=0)

    @property
    def extracted(self) -> bool:
        """Whether a clique is full."""
        return self.largest >= self.size

    @property
    def kept(self) -> Float[Tensor, "images 3 height width"]:
        """The members of the largest clique that are held."""
        return self.members[max(range(len(self.counts)), key=self.counts.__getitem__)]

    def picture(self) -> Float[Tensor, "3 height width"]:
        """What was extracted: of the largest clique the member nearest to all the others."""
        kept = self.kept
        pairs = [tiled_l2(image.expand_as(kept), kept).sum() for image in kept]
        return kept[int(torch.stack(pairs).argmin())]


@dataclass(frozen=True, slots=True)
class Extraction:
    """One prompt's outcome: the largest clique's count among the `seeds` images, its picture."""

    id: str
    clique: int
    seeds: int
    extracted: bool
    picture: Float[Tensor, "3 height width"]


def extract(
    ids: Sequence[str],
    images_of: Callable[[Sequence[str], int], Tensor],
    seeds: int,
    *,
    size: int = CLIQUE,
    edge: float = EDGE,
    batch: int = 48,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Extraction]:
    """Run the attack on each prompt, `batch` prompts at a time, one seed after another.

    images_of(ids, seed): those prompts' images [n, 3, h, w] in [0, 1] under that seed. `progress`
    is told the number of images of each call. Yields outcomes in order.
    """
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        cliques = [Cliques(size, edge) for _ in part]
        for seed in range(seeds):
            for clique, image in zip(cliques, images_of(part, seed), strict=True):
                clique.add(image[None])
            if progress:
                progress(len(part))
        for name, clique in zip(part, cliques, strict=True):
            picture = clique.picture()
            yield Extraction(name, clique.largest, clique.seen, clique.extracted, picture)
