"""What a guard compares prompts with: the scores of reference prompts, and the threshold they set.

Two looks, two kinds: `ByPrompt` before the first step, as an audit looks; `BySteps` at the first
ordinary steps, for free where there is guidance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from memfast.auditing.calibration import Calibration
from memfast.auditing.looking.combining import CARRIED, exceeded, mean
from memfast.auditing.looking.scores import Baseline, parts
from memfast.auditing.looking.settings import Settings
from memfast.auditing.storing import manifest
from memfast.errors import InputError, reading
from memfast.files import load_tensors, save_tensors

KIND, FORMAT = "guard calibration", 1
SCORE = "distance"


@dataclass(frozen=True)
class Footing:
    """On what a guard stands. model: the fingerprint of the denoiser that it is of. threshold: what
    is above it is flagged. rate: the share of false alarms that `references` prompts of `groups`
    near-duplicate groups allow to be promised."""

    model: str
    threshold: float
    rate: float
    references: int
    groups: int

    @classmethod
    def of(
        cls, model: str, scores: Float64[Tensor, " prompts"], groups: Sequence[int], fpr: float
    ) -> "Footing":
        """The least threshold that at most a share `fpr` of the groups has a prompt above: captions
        that are alike are one observation. Of fewer than 1/fpr groups, their maximum."""
        highest = scores.new_full((max(groups) + 1,), -torch.inf)
        highest.scatter_reduce_(0, torch.tensor(groups), scores, "amax")
        threshold = float(exceeded(highest, fpr))
        return cls(model, threshold, max(fpr, 1 / len(highest)), len(scores), len(highest))


@dataclass(frozen=True)
class ByPrompt:
    """Of looks before the first step. learnt: an audit's calibration, made under `settings`.
    score: the column that decides. usual: by noise level, the references' median of `relative`."""

    look: ClassVar[str] = "prompt"
    footing: Footing
    learnt: Calibration
    settings: Settings
    usual: Mapping[float, float]
    score: str = SCORE

    def scores(self, found: Float64[Tensor, "rows noises scores"]) -> Float64[Tensor, " rows"]:
        """The deciding scores of what a look found, a row a prompt."""
        return self.learnt.table(found)[:, self.learnt.columns().index(self.score)]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        learnt = self.learnt
        tensors = {"reference": learnt.reference}
        for field in ("mean", "deviation"):
            tensors[field] = torch.stack([getattr(each, field) for each in learnt.baselines])
        told = {"names": learnt.names, "score": self.score, "settings": self.settings.as_dict()}
        told["usual"] = [*self.usual.items()]
        _save(path, self, tensors, told)


@dataclass(frozen=True)
class BySteps:
    """Of the first ordinary steps. reference: of each prompt and step |with - without the prompt|
    over |without|, of the denoiser's outputs. schedule: the run that they were seen in."""

    look: ClassVar[str] = "steps"
    footing: Footing
    reference: Float64[Tensor, "prompts steps"]
    schedule: dict[str, Any]

    @property
    def steps(self) -> int:
        """How many steps are looked at."""
        return self.reference.shape[1]

    @property
    def usual(self) -> Float64[Tensor, " steps"]:
        """The references' median at every step."""
        return self.reference.median(0).values

    def scores(self, found: Float64[Tensor, "rows steps"]) -> Float64[Tensor, " rows"]:
        """The mean over steps of the logarithms, standardised by the references' quartiles."""
        return mean(found, self.reference)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        _save(path, self, {"reference": self.reference}, {"schedule": self.schedule})


GuardCalibration = ByPrompt | BySteps


def said(made: GuardCalibration) -> dict[str, Any]:
    """What a calibration is, in few figures."""
    footing = made.footing
    return {
        "look": made.look,
        "threshold": footing.threshold,
        "false_alarm_rate": footing.rate,
        "references": footing.references,
        "groups": footing.groups,
        "model": footing.model,
    }


def _save(
    path: str | Path, made: GuardCalibration, tensors: dict[str, Tensor], told: dict[str, Any]
) -> None:
    header = {"kind": KIND, "format": FORMAT, "look": made.look, "footing": vars(made.footing)}
    save_tensors(path, tensors, header | told)


def load_calibration(path: str | Path) -> GuardCalibration:
    """The calibration in a file that `save` wrote, or in the folder of an audit with references.

    Raises InputError for what is neither, damaged, or an audit that stands on its own list.
    """
    path = Path(path)
    if path.is_dir():
        return _of_audit(path)
    tensors, header = load_tensors(path, KIND, FORMAT, finite=True)
    with reading(path):
        footing = Footing(**header["footing"])
        if header["look"] == BySteps.look:
            return BySteps(footing, tensors["reference"], header["schedule"])
        means, deviations = tensors["mean"], tensors["deviation"]
        baselines = [Baseline(*each) for each in zip(means, deviations, strict=True)]
        learnt = Calibration(header["names"], baselines, tensors["reference"], seen=[])
        usual = dict(header["usual"])
        return ByPrompt(footing, learnt, _settings(header["settings"]), usual, header["score"])


def _of_audit(folder: Path) -> ByPrompt:
    manifest.check_audit(folder)
    run = manifest.of(folder)
    with reading(folder):
        record = run.read()
        identity, decision = record["identity"], record["decision"]
        if record["reference"]["own"]:
            raise InputError(
                f"{folder}: an audit without --reference; its threshold rests on its own list"
            )
        learnt = Calibration.load(folder / manifest.CALIBRATION, run.hash)
        if learnt.adaptive is not None:
            raise InputError(f"{folder}: an adaptive audit; a guard needs one without --adaptive")
        score, number = decision["score"], len(learnt.reference)
        known = learnt.column(score)
        footing = Footing.of(identity["model"], known, range(number), decision["fpr"])
        settings = _settings(identity["settings"])
        return ByPrompt(footing, learnt, settings, _usual(learnt, settings), score)


def _usual(learnt: Calibration, settings: Settings) -> dict[float, float]:
    """What an audit knows: its levels' medians, or the one of all."""
    names = parts(settings.path)
    if names[0] not in learnt.names:
        return {settings.path[-1]: float(learnt.column(CARRIED).median())}
    columns = zip(settings.path, names, strict=True)
    return {level: float(learnt.column(name).median()) for level, name in columns}


def _settings(told: dict[str, Any]) -> Settings:
    values: dict[str, Any] = {**told, "path": tuple(told["path"])}
    return Settings(**values)
