"""Are the references captions of the list's kind? By length, embedding, and score."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from memfast.auditing.judging.bulk import standing
from memfast.pipelines.drivers.driver import Driver

COMPARED = 200  # captions of each
ENCODED = 32  # at once
LENGTHS, EMBEDDINGS, SCORES = 0.3, 0.1, 0.2  # beyond these, two lists are of different kinds
SHUFFLES = 100
_SURELY = 1.95  # Kolmogorov's 99.9 % quantile


@dataclass(frozen=True)
class Likeness:
    """How far references are from the audited list, all in [0, 1] and 0 for the same.

    lengths: the Kolmogorov distance of numbers of tokens. embeddings: the energy coefficient
    (Székely and Rizzo 2013) of text embeddings. outstanding: references whose own score stands out
    from the others', the most suspicious first.
    """

    lengths: float
    embeddings: float
    outstanding: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        driver: Driver,
        listed: Sequence[str],
        references: list[str],
        scores: ArrayLike,
        rate: float,
    ) -> "Likeness":
        """listed: a sample of the list; scores: the references' own."""
        sampled = references[:: max(1, len(references) // COMPARED)][:COMPARED]
        pair = [list(listed)[:COMPARED], sampled]
        lengths = [_lengths(driver, texts) for texts in pair]
        values, stand = np.asarray(scores, float), standing(scores, rate)
        order = np.argsort(-values, kind="stable")[: stand.above if stand and stand.anything else 0]
        return cls(
            kolmogorov(*lengths),
            energy_coefficient(*(_embeddings(driver, texts) for texts in pair)),
            [references[place] for place in order],
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def reasons(self) -> list[str]:
        """What says that the references are another kind of captions."""
        return [
            f"{what} differ by {distance:.2f} of 1"
            for what, distance, most in (
                ("their lengths", self.lengths, LENGTHS),
                ("their text embeddings", self.embeddings, EMBEDDINGS),
            )
            if distance > most
        ]


def scores_differ(listed: ArrayLike, references: ArrayLike, threshold: float) -> bool:
    """Whether scores below the threshold, where no memorized prompt should be, differ surely."""
    below = [values[values <= threshold] for values in map(np.asarray, (listed, references))]
    return kolmogorov(*below) > SCORES


def kolmogorov(first: ArrayLike, second: ArrayLike) -> float:
    """What the Kolmogorov distance of two samples surely (99.9 %) exceeds; 0 where one is empty."""
    one, other = np.sort(np.asarray(first, float)), np.sort(np.asarray(second, float))
    if not len(one) or not len(other):
        return 0.0
    every = np.concatenate([one, other])
    shares = [np.searchsorted(part, every, "right") / len(part) for part in (one, other)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    return max(0.0, distance - _SURELY * (1 / len(one) + 1 / len(other)) ** 0.5)


def energy_coefficient(
    first: Float[Tensor, "a features"], second: Float[Tensor, "b features"]
) -> float:
    """What Székely and Rizzo's energy coefficient of two samples surely exceeds: the coefficient
    less the 99 % quantile of those of the same samples shuffled."""
    count, every = len(first), torch.cat([first, second]).double()
    if min(count, len(second)) < 2:
        return 0.0
    spread = every.std(0)
    varies = spread > 0
    apart = torch.cdist(every[:, varies] / spread[varies], every[:, varies] / spread[varies])
    random = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(every), generator=random) for _ in range(SHUFFLES)]
    shuffled = torch.stack([_coefficient(apart[order][:, order], count) for order in orders])
    return max(0.0, float(_coefficient(apart, count) - shuffled.quantile(0.99)))


def _coefficient(apart: Float[Tensor, "n n"], count: int) -> Float[Tensor, ""]:
    """Of two samples, the first `count` and the others, given all distances."""
    between = 2 * apart[:count, count:].mean()
    within = sum(
        part.sum() / (len(part) * (len(part) - 1))
        for part in (apart[:count, :count], apart[count:, count:])
    )
    return (between - within) / between.clamp(min=1e-300)


def _lengths(driver: Driver, texts: Sequence[str]) -> list[int]:
    tokenizer = driver.readers[0].tokenizer
    return [len(tokens) for tokens in tokenizer(list(texts), verbose=False).input_ids]


@torch.no_grad()
def _embeddings(driver: Driver, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
    """Each text's embedding, the mean over its tokens."""
    parts = []
    for start in range(0, len(texts), ENCODED):
        leaves = driver.encode(texts[start : start + ENCODED]).searching().values()
        parts.append(torch.cat([_mean(leaf) for leaf in leaves], 1))
    return torch.cat(parts)


def _mean(leaf: Tensor) -> Tensor:
    flat = leaf.double().cpu()
    return flat.flatten(1, -2).mean(1) if flat.ndim > 2 else flat.flatten(1)
