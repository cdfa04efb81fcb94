"""Scores of looks: pure functions over tensors, one entry of SCORES each; larger, more suspicious.

Some scores read the predictions; others read the norms of the feed-forward neurons and compare
them with a baseline taken from reference prompts. To add a score, add a function and its entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from memfast.auditing.looking.combining import CARRIED, PART
from memfast.auditing.looking.probes import Look
from memfast.precision import exact

Scores = Float64[Tensor, " rows"]
Norms = Float64[Tensor, "rows neurons"]
SHRINKAGE = 0.5


@dataclass(frozen=True)
class Baseline:
    """Norms on reference prompts, and what else was learnt about neurons; all are [neurons].

    located: the neurons of a given subspace. direction: the linear discriminant's weights, where
    memorized examples were given.
    """

    mean: Float64[Tensor, " neurons"]
    deviation: Float64[Tensor, " neurons"]
    located: Bool[Tensor, " neurons"] | None = None
    direction: Float64[Tensor, " neurons"] | None = None

    def to(self, device: torch.device | str) -> "Baseline":
        """The same on another device."""
        return Baseline(*(None if v is None else v.to(device) for v in vars(self).values()))  # type: ignore[arg-type]

    def standardise(self, norms: Norms) -> Norms:
        """(norms - mean) / deviation; a neuron that never varies on the reference counts 0."""
        varies = self.deviation > 0
        return torch.where(varies, (norms - self.mean) / self.deviation.where(varies, 1), 0.0)


def guidance_norm(looks: Sequence[Look]) -> Scores:
    """L2 norm of the noise predicted with the prompt minus that without (Wen et al., ICLR 2024):
    mean over the looks that know both, later than pure noise, or else there."""
    return torch.stack([_length(given - empty) for given, empty in _noises(looks)]).mean(0)


def relative_norm(looks: Sequence[Look]) -> Scores:
    """`guidance_norm` in units of the norm of the noise predicted without the prompt: latents in
    which the model sees much noise anyway count less. Has no unit, and is ours."""
    shares = [_length(given - empty) / _length(empty) for given, empty in _noises(looks)]
    return torch.stack(shares).mean(0)


def _noises(looks: Sequence[Look]) -> list[tuple[Tensor, Tensor]]:
    """The predicted noises with and without the prompt, of the looks to compare them at."""
    later = [look for look in looks if look.empty and not look.start] or looks[:1]
    return [(look.prediction.noise, look.empty.noise) for look in later if look.empty]


def change(looks: Sequence[Look]) -> Scores:
    """The distance between the clean latents predicted at the first and at the last look.

    The picture of a memorized prompt may be decided at pure noise already (a small change), or
    come out of nowhere (a large one): which, depends on the model, so either counts.
    """
    return _length(looks[-1].prediction.clean - looks[0].prediction.clean)


def energy(norms: Norms, baseline: Baseline) -> Scores:
    """Mean over all neurons of the squared standardised norm."""
    return baseline.standardise(norms).square().mean(1)


def located_energy(norms: Norms, baseline: Baseline) -> Scores:
    """`energy` over the neurons of the given subspace."""
    return baseline.standardise(norms)[:, baseline.located].square().mean(1)


def discriminant(norms: Norms, baseline: Baseline) -> Scores:
    """The standardised norms along the linear discriminant."""
    if baseline.direction is None:
        raise ValueError("the baseline has no direction: it was made without memorized examples")
    return baseline.standardise(norms) @ baseline.direction


def discriminant_direction(
    memorized: Float64[Tensor, "positives neurons"],
    reference: Float64[Tensor, "negatives neurons"],
    shrinkage: float = SHRINKAGE,
) -> Float64[Tensor, " neurons"]:
    """Fisher's linear discriminant of standardised norms, of unit length.

    The pooled within-class covariance S is shrunk to (1-g)·S + g·(trace S / neurons)·I, and
    inverted by the Woodbury identity, so that the cost follows the number of prompts.
    """
    gap = memorized.mean(0) - reference.mean(0)
    centred = torch.cat([memorized - memorized.mean(0), reference - reference.mean(0)])
    centred = centred * ((1 - shrinkage) / max(1, len(centred) - 2)) ** 0.5
    ridge = shrinkage * centred.square().sum() / ((1 - shrinkage) * centred.shape[1])
    small = centred @ centred.T + ridge * torch.eye(len(centred), dtype=centred.dtype)
    direction = gap - centred.T @ torch.linalg.solve(small, centred @ gap)
    return direction / direction.norm().clamp(min=1e-300)


def _length(difference: Float[Tensor, "rows ..."]) -> Scores:
    return exact(difference).flatten(1).norm(dim=1)


@dataclass(frozen=True)
class Score:
    """Exactly one of the two functions; `needs` says what must be there for the score to exist.

    two_sided: what counts is the squared distance from the reference's mean, in its deviations.
    squared: a mean of squared standardised norms.
    """

    of_looks: Callable[[Sequence[Look]], Scores] | None = None
    of_norms: Callable[[Norms, Baseline], Scores] | None = None
    needs: str = ""
    two_sided: bool = False
    squared: bool = False


SCORES: dict[str, Score] = {
    "norm": Score(of_looks=guidance_norm),
    "relative": Score(of_looks=relative_norm),
    "change": Score(of_looks=change, needs="two looks", two_sided=True),
    "energy": Score(of_norms=energy, squared=True),
    "located": Score(of_norms=located_energy, needs="a subspace", squared=True),
    "discriminant": Score(of_norms=discriminant, needs="memorized prompts"),
}


def score_of(name: str) -> Score:
    """The entry of a score, or of the one that `name` is a part of."""
    return SCORES[name.partition(PART)[0]]


def available(
    looks: int, subspace: bool, memorized: bool, levels: Sequence[float] = ()
) -> list[str]:
    """The scores that exist under these circumstances, in the table's order, and at last the parts
    at these noise levels, where they are several."""
    have = {
        "": True,
        "two looks": looks > 1,
        "a subspace": subspace,
        "memorized prompts": memorized,
    }
    names = [name for name, score in SCORES.items() if have[score.needs]]
    return names + (parts(levels) if len(levels) > 1 else [])


def parts(levels: Sequence[float | str]) -> list[str]:
    """The names of the parts of the looks at these noise levels."""
    return [f"{CARRIED}{PART}{level}" for level in levels]
