"""What a guard does about flagged prompts: one function each. Add one to POLICIES.

A policy is given the flagged prompts of one run and says which of them it settled; those that it
did not go to the next policy of the guard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from memfast.errors import some
from memfast.guarding.calibration import ByPrompt, BySteps
from memfast.guarding.looking import PromptLook
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.precision import Gradients

STEP, STEPS = 0.01, 60  # of `reword`: the share of an embedding's length, and how often at most
NOISES = 8  # that `renew` tries
REMEMBERED = 256  # reworded prompts


class Refused(RuntimeError):
    """A guarded pipeline was asked for a prompt that it would copy a training image for."""


@runtime_checkable
class Acting(Protocol):
    """A run that policies act on, at places of its images. look: the one before the first step,
    where the calibration is by prompt. seed: of what policies draw."""

    look: Any
    seed: int

    def tell(self, places: Sequence[int], told: Conditioning) -> None:
        """Tell the denoiser this, one row, in place of the images' prompt."""
        ...

    def rescored(self, flagged: "Flagged", scores: Float64[Tensor, " prompts"]) -> None:
        """Record what a second look saw."""
        ...

    def start_from(self, place: int, noise: Tensor) -> None:
        """Begin the run again, an image's with another initial noise."""
        ...

    def soften(self, places: Sequence[int]) -> None:
        """Bring guidance down to its usual share at every step from now on."""
        ...

    def withhold(self, places: Sequence[int]) -> None:
        """Give black images in the place of these."""
        ...


@dataclass(frozen=True)
class Flagged:
    """Flagged prompts of one run, each once.

    texts: the prompts, or what stands for them where embeddings were given. told: what the denoiser
    is told of them. scores: above `threshold`. images: places of each one's images in `run`, on
    which a policy acts.
    """

    texts: list[str]
    told: Conditioning
    scores: Float64[Tensor, " prompts"]
    threshold: float
    images: list[list[int]]
    run: "Acting"

    def part(self, which: Bool[Tensor, " prompts"]) -> "Flagged":
        """Some of them."""
        places = which.nonzero().flatten()
        kept = places.tolist()
        return replace(
            self,
            texts=[self.texts[n] for n in kept],
            told=self.told[places],
            scores=self.scores[places],
            images=[self.images[n] for n in kept],
        )

    @property
    def places(self) -> list[int]:
        """Of all their images."""
        return [place for places in self.images for place in places]


Settled = Bool[Tensor, " prompts"]


def note(flagged: Flagged) -> Settled:
    """Mark and go on."""
    return _all(flagged)


def refuse(flagged: Flagged) -> Settled:
    """Raise `Refused`, and make no image of the batch."""
    raise Refused(
        f"{some([repr(text) for text in flagged.texts])}: the model replicates a training image "
        f"for it (score {flagged.scores.max():.3g} above {flagged.threshold:.3g})"
    )


def blank(flagged: Flagged) -> Settled:
    """Give a black image in the place of theirs, as a safety checker does."""
    flagged.run.withhold(flagged.places)
    return _all(flagged)


def reword(flagged: Flagged) -> Settled:
    """Move the prompt's embedding against the gradient of `relative` at several noise levels (after
    Wen et al., ICLR 2024, who take its norm at the first step), a hundredth of its length at a
    time, until each is the references' median; settled where a second look no longer flags it."""
    look, known = flagged.run.look, flagged.run.look.reworded
    digests = [flagged.told.digest(n) for n in range(len(flagged.texts))]
    new = [n for n, digest in enumerate(digests) if digest not in known]
    if new:
        told = lowered(look, flagged.told[torch.tensor(new)])
        for n, after in enumerate(look.scores(told).tolist()):
            known[digests[new[n]]] = told[[n]], after
    found = [known[digest] for digest in digests]
    for (told, _), places in zip(found, flagged.images, strict=True):
        flagged.run.tell(places, told)
    while len(known) > REMEMBERED:
        known.popitem(last=False)
    after = torch.tensor([score for _, score in found], dtype=torch.float64)
    flagged.run.rescored(flagged, after)
    return after <= flagged.threshold


def lowered(look: PromptLook, told: Conditioning) -> Conditioning:
    """Each prompt's conditioning moved until its relative norms are usual, or STEPS times."""
    gradients = Gradients(look.driver.model)
    with torch.enable_grad():
        sought = told.sought()
        lengths = {name: _length(leaf).detach() for name, leaf in sought.items()}
        for _ in range(STEPS):
            norms = look.relative(told.found(sought))
            far = (norms.detach() > 1).any(1)
            if not far.any():
                break
            found = gradients.of(norms.log().clamp(min=0).sum(), list(sought.values()))
            with torch.no_grad():
                for (name, leaf), slope in zip(sought.items(), found, strict=True):
                    step = STEP * lengths[name] / _length(slope).clamp(min=1e-30)
                    leaf -= torch.where(_wide(far, leaf), slope * _wide(step, leaf), 0.0)
    return told.found(sought).searched_by(Tensor.detach)


def renew(flagged: Flagged) -> Settled:
    """Start from another initial noise: of several, the one under which the prompt's score is
    least; settled where that is not above the threshold."""
    look, driver = flagged.run.look, flagged.run.look.driver
    tried = max(NOISES, *map(len, flagged.images))
    noises = driver.initial_noise([f"guard noise {n}" for n in range(tried)], flagged.run.seed)
    scores = torch.stack([look.scores(flagged.told, noise[None]) for noise in noises], 1)
    after, order = scores.sort(1)
    for prompt, places in enumerate(flagged.images):
        for rank, place in enumerate(places):
            flagged.run.start_from(place, noises[order[prompt, rank]])
    worst = torch.stack(
        [row[len(places) - 1] for row, places in zip(after, flagged.images, strict=True)]
    )
    flagged.run.rescored(flagged, worst)
    return worst <= flagged.threshold


def soften(flagged: Flagged) -> Settled:
    """From here on, rescale guidance so that at every step the prompt changes the prediction by no
    more than the references' median."""
    flagged.run.soften(flagged.places)
    return _all(flagged)


def verify(flagged: Flagged) -> Settled:
    """Leave it to the index of training images, which the guard then compares every finished image
    with, flagged or not: copies are withheld."""
    return _all(flagged)


@dataclass(frozen=True)
class Policy:
    """looks: the kinds of calibration that it can work with. guided: it needs guidance.
    restarts: it draws the initial noise anew. index: it needs an index of training images."""

    act: Callable[[Flagged], Settled]
    looks: tuple[str, ...] = (ByPrompt.look, BySteps.look)
    guided: bool = False
    restarts: bool = False
    index: bool = False


POLICIES: Mapping[str, Policy] = {
    "note": Policy(note),
    "refuse": Policy(refuse),
    "blank": Policy(blank),
    "reword": Policy(reword, looks=(ByPrompt.look,)),
    "renew": Policy(renew, looks=(ByPrompt.look,), restarts=True),
    "soften": Policy(soften, looks=(BySteps.look,), guided=True),
    "verify": Policy(verify, index=True),
}


def _all(flagged: Flagged) -> Settled:
    return torch.ones(len(flagged.texts), dtype=torch.bool)


def _length(leaf: Tensor) -> Tensor:
    return leaf.flatten(1).norm(dim=1)


def _wide(values: Tensor, leaf: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (leaf.ndim - 1))
