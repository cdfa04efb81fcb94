"""What the repaired model is to predict, and for which embeddings: one table, one function each.

An objective draws rows. The target of a row is the original model's prediction for the embedding
`wanted`, or, where none is wanted, the clean latents themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.repairing.samples import Samples
from memfast.repairing.settings import RepairSettings
from memfast.repairing.teaching.pool import Pool

UNCONDITIONAL = 0.125  # share of reference rows without a caption: guidance needs them as well
BLENDED = 0.5  # share between two captions: a short list alone leaves all others looking far away
NEAREST, FARTHEST = 0.5, 3.0  # how far, in standard deviations of N(0, 1), embeddings are scattered


@dataclass(frozen=True)
class Rows:
    """clean: latents; given: what the repaired model is conditioned on; wanted: what the original
    model is conditioned on to make the target, or None: the clean latents are the target."""

    clean: Tensor
    given: Conditioning
    wanted: Conditioning | None


@dataclass(frozen=True)
class Material:
    """All that objectives draw from. own: located captions with the pruned model's own images.
    digest: identifies the captions and pictures that were given."""

    settings: RepairSettings
    reference: Samples
    own: Samples | None
    pool: Pool | None
    empty: Conditioning  # without a caption: one row
    digest: list[str | None]


def reference(material: Material, student: Driver, step: int, source: torch.Generator) -> Rows:
    """Reference captions, some blended with another, and sometimes none: as the original."""
    samples = material.reference
    rows = samples.drawn(material.settings.batch, source)
    kind = torch.rand(len(rows), generator=source)
    share = torch.rand(len(rows), generator=source) * (kind < BLENDED)
    given = samples.conditioning[rows].blended(share)
    given = given.with_rows(kind > 1 - UNCONDITIONAL, material.empty)
    return Rows(samples.clean[rows], given, given)


def surrogate(material: Material, student: Driver, step: int, source: torch.Generator) -> Rows:
    """Located captions: the image that the pruned model makes of them, and no other."""
    samples: Samples = material.own  # type: ignore[assignment]  `active` sees to it
    rows = samples.drawn(material.settings.batch, source)
    return Rows(samples.clean[rows], samples.conditioning[rows], None)


def adversarial(material: Material, student: Driver, step: int, source: torch.Generator) -> Rows:
    """Embeddings under attack: as no caption at all."""
    clean, given = material.pool.advanced(student, step, source)  # type: ignore[union-attr]
    return Rows(clean, given, material.empty.expand(len(given)))


def scattered(material: Material, student: Driver, step: int, source: torch.Generator) -> Rows:
    """Embeddings far from every caption's: as no caption at all."""
    samples = material.reference
    rows = samples.drawn(material.settings.batch, source)
    radius = NEAREST + (FARTHEST - NEAREST) * torch.rand(len(rows), generator=source)

    def scatter(leaf: Tensor) -> Tensor:
        noise = torch.randn(leaf.shape, generator=source)
        return leaf + (noise * radius.view(-1, *(1,) * (leaf.ndim - 1))).to(leaf)

    given = samples.conditioning[rows].searched_by(scatter)
    return Rows(samples.clean[rows], given, material.empty.expand(len(given)))


Objective = Callable[[Material, Driver, int, torch.Generator], Rows]
OBJECTIVES: Mapping[str, Objective] = {
    "reference": reference,
    "surrogate": surrogate,
    "adversarial": adversarial,
    "scattered": scattered,
}


def active(material: Material) -> dict[str, float]:
    """{objective: weight} of those that have a weight and something to draw from."""
    lacking = {"surrogate": material.own is None, "adversarial": material.pool is None}
    weights = material.settings.weights
    return {name: w for name, w in weights.items() if w > 0 and not lacking.get(name, False)}


def due(material: Material, step: int) -> list[str]:
    """The active objectives whose turn a step is."""
    names = list(active(material))
    resting = step % material.settings.every and len(names) > 1
    return [name for name in names if name != "adversarial" or not resting]


@dataclass(frozen=True)
class Drawn:
    """One step's rows of all objectives; sizes: {objective: rows}, in order.

    wanted: what the original model is told. of_data: rows whose target is the data's own.
    """

    sizes: Mapping[str, int]
    clean: Tensor
    noise: Tensor
    times: Tensor
    given: Conditioning
    wanted: Conditioning
    of_data: Tensor

    def __len__(self) -> int:
        return len(self.clean)


def draw(
    names: list[str], material: Material, student: Driver, step: int, source: torch.Generator
) -> Drawn:
    """What the objectives of a step are computed on."""
    parts = [OBJECTIVES[name](material, student, step, source) for name in names]
    clean = torch.cat([part.clean for part in parts])
    noise = torch.randn(clean.shape, generator=source).to(clean)
    sizes = [len(part.clean) for part in parts]
    return Drawn(
        sizes=dict(zip(names, sizes, strict=True)),
        clean=clean,
        noise=noise,
        times=student.path.drawn(len(clean), source).to(clean.device),
        given=Conditioning.cat([part.given for part in parts]),
        wanted=Conditioning.cat([p.given if p.wanted is None else p.wanted for p in parts]),
        of_data=torch.tensor([p.wanted is None for p in parts]).repeat_interleave(
            torch.tensor(sizes)
        ),
    )
