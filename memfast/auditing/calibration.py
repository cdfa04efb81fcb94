"""Calibration on reference prompts: neuron baselines, and a threshold for each score.

Scores that compare with the reference are crossed over halves of it, so that no reference prompt
is judged by a baseline that it helped to make; otherwise the thresholds would be too low. Squares
are brought from the scale of half a reference to that of the whole, by which prompts are judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from memfast.auditing.inputs import Examples
from memfast.auditing.looking.combining import COMBINATIONS, combinations, distance, exceeded
from memfast.auditing.looking.gating import CHEAP
from memfast.auditing.looking.scores import Baseline, discriminant_direction, score_of
from memfast.auditing.looking.worker import Worker, score_looks
from memfast.errors import InputError, reading
from memfast.files import load_tensors, save_tensors
from memfast.prompts import Prompt

KIND, FORMAT = "audit calibration", 2


@dataclass(frozen=True)
class Calibration:
    """What reference prompts taught: `baselines`, one a noise; `reference`: the scores of the
    reference prompts, mean over noises, that thresholds and combinations follow from. seen: ids of
    all texts that were learnt from, by text alone. adaptive: see Settings; every prompt then has
    the last scores, and the others are NaN where it does not earn them."""

    names: list[str]
    baselines: list[Baseline]
    reference: Float64[Tensor, "prompts scores"]
    seen: list[str]
    adaptive: float | None = None

    def earns(self, last: Float64[Tensor, "rows scores"]) -> Bool[Tensor, " rows"]:
        """Which prompts of these last scores get the others: those farther from the references than
        a share `adaptive` of these is."""
        known = self.reference[:, -CHEAP:]
        return distance(last, known) > exceeded(distance(known, known), self.adaptive or 0.0)

    @property
    def partial(self) -> list[str]:
        """The scores that some prompts do not get."""
        return [] if self.adaptive is None else self.names[:-CHEAP]

    def columns(self) -> list[str]:
        """The names of `table`'s columns."""
        return [*self.names, *combinations(self.names)]

    def table(
        self, scores: Float64[Tensor, "rows noises scores"]
    ) -> Float64[Tensor, "rows columns"]:
        """Mean over noises; and last, the combinations."""
        return self._columns(scores.mean(1))

    def threshold(self, column: str, rate: float) -> float:
        """The least value that at most a share `rate` of the reference prompts exceeds."""
        return float(exceeded(self.column(column), rate))

    def column(self, column: str) -> Float64[Tensor, " prompts"]:
        """A column of `table` for the reference prompts."""
        known = self.reference
        if self.adaptive is not None:  # as if the references had been audited
            known = known.clone()
            known[~self.earns(known[:, -CHEAP:]), :-CHEAP] = torch.nan
        return self._columns(known)[:, self.columns().index(column)]

    def _columns(self, means: Float64[Tensor, "rows scores"]) -> Float64[Tensor, "rows columns"]:
        shown, known = self._sided(means), self._sided(self.reference)
        combined = [
            self._combined(name, shown[:, taken], known[:, taken])
            for name, taken in combinations(self.names).items()
        ]
        return torch.cat([shown, torch.stack(combined, 1)], 1)

    def _combined(self, name: str, shown: Tensor, known: Tensor) -> Tensor:
        """A combination of the scores that a prompt has: all, or the last alone."""
        of = COMBINATIONS[name]
        found = of(shown, known)
        if self.adaptive is None:
            return found
        lacking = shown[:, :-CHEAP].isnan().all(1)
        return torch.where(lacking, of(shown[:, -CHEAP:], known[:, -CHEAP:]), found)

    def _sided(self, means: Float64[Tensor, "rows scores"]) -> Float64[Tensor, "rows scores"]:
        """Two-sided scores as squared distances from the reference's mean, in its deviations."""
        two_sided = torch.tensor([score_of(name).two_sided for name in self.names])
        centre, spread = self.reference.mean(0), self.reference.std(0).clamp(min=1e-300)
        return torch.where(two_sided, ((means - centre) / spread).square(), means)

    def save(self, path: Path, run: str) -> None:
        """Write a safetensors file, whole or not at all, unless another process did so first."""
        tensors = {"reference": self.reference}
        for field in ("mean", "deviation", "located", "direction"):
            values = [getattr(baseline, field) for baseline in self.baselines]
            if values[0] is not None:
                tensors[field] = torch.stack(values)
        header = {"kind": KIND, "format": FORMAT, "run": run}
        header |= {"names": self.names, "seen": self.seen}
        if self.adaptive is not None:
            header["adaptive"] = self.adaptive
        save_tensors(path, tensors, header, new=True)

    @classmethod
    def load(cls, path: Path, run: str) -> "Calibration":
        """A calibration that `save` wrote. Raises InputError for one that is damaged, not finite or
        of another run."""
        tensors, header = load_tensors(path, KIND, FORMAT, run=run, finite=True)
        with reading(path):
            reference = tensors.pop("reference")
            noises = range(len(tensors["mean"]))
            baselines = [
                Baseline(**{name: t[noise] for name, t in tensors.items()}) for noise in noises
            ]
            return cls(
                header["names"], baselines, reference, header["seen"], header.get("adaptive")
            )

    @property
    def digest(self) -> str:
        """Identifies the numbers that scores are compared with."""
        total = sha256(self.reference.numpy().tobytes())
        for baseline in self.baselines:
            for values in vars(baseline).values():
                total.update(b"" if values is None else values.numpy().tobytes())
        return total.hexdigest()[:32]


Norms = Float64[Tensor, "prompts noises neurons"]


def calibrate(
    worker: Worker,
    names: Sequence[str],
    examples: Examples,
    *,
    located: Bool[Tensor, " neurons"] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Run the reference prompts (and memorized examples) and learn from them.

    Keeps their norms in memory: 8 bytes a prompt, noise and neuron. Raises InputError when the
    model's output is not finite for one of them.
    """
    reference, memorized = examples.reference, examples.memorized
    names = list(names)
    scores, norms = _observe(worker, names, reference, progress)
    positive = _observe(worker, names, memorized, progress)[1] if memorized else None
    halves = [torch.arange(len(reference)) % 2 == half for half in (0, 1)]
    for own in halves:
        crossed = _baselines(norms[~own], positive, located)
        for column, name in enumerate(names):
            score = score_of(name)
            if score.of_norms:
                scale = inflation(len(own)) / inflation(int((~own).sum())) if score.squared else 1.0
                for noise, baseline in enumerate(crossed):
                    found = score.of_norms(norms[own, noise], baseline)
                    scores[own, noise, column] = found * scale
    means = scores.mean(1)
    if not bool(means.isfinite().all()):
        finite = means.isfinite().all(1)
        bad = next(each for each, fine in zip(reference, finite, strict=True) if not fine)
        raise InputError(f"reference: the model's output is not finite for {bad.text!r}")
    return Calibration(
        names,
        _baselines(norms, positive, located),
        means,
        examples.seen,
        worker.settings.adaptive,
    )


def inflation(count: int) -> float:
    """How much larger than 1 a new prompt's squared standardised norm is on average, where mean and
    deviation come from `count` prompts and norms are normal. Of few: as of 4, the fewest that have
    an average."""
    count = max(count, 4)
    return (1 + 1 / count) * (count - 1) / (count - 3)


def _observe(
    worker: Worker,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    progress: Callable[[int], None] | None,
) -> tuple[Float64[Tensor, "prompts noises scores"], Norms]:
    """The scores that need no baseline (NaN for the others), and the norms at the last look."""
    places, scores, norms = [], [], []
    for rows, by_noise in worker.looks(prompts):
        size = len(rows)
        places += rows
        scores.append(
            torch.stack([score_looks(looks, names, None)[:size] for looks in by_noise], 1).cpu()
        )
        norms.append(torch.stack([looks[-1].norms[:size] for looks in by_noise], 1).cpu())
        if progress:
            progress(size)
    found = torch.cat(scores), torch.cat(norms)
    if places != sorted(places):  # some have a noise of their own, and were looked at last
        order = torch.tensor(places).argsort()
        return found[0][order], found[1][order]
    return found


def _baselines(
    norms: Norms,
    examples: Float64[Tensor, "examples noises neurons"] | None,
    located: Bool[Tensor, " neurons"] | None,
) -> list[Baseline]:
    """One baseline for each noise, learnt from all the given norms."""
    result = []
    for noise in range(norms.shape[1]):
        own = norms[:, noise]
        baseline = Baseline(own.mean(0), own.std(0), located)
        if examples is not None:
            direction = discriminant_direction(
                baseline.standardise(examples[:, noise]), baseline.standardise(own)
            )
            baseline = Baseline(baseline.mean, baseline.deviation, located, direction)
        result.append(baseline)
    return result
