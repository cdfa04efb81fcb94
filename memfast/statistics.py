"""Streaming statistics of feed-forward neurons: what one pass over any number of prompts keeps.

Per site (module path of a feed-forward block), step and neuron: count, mean and second central
moment, largest magnitude and number of non-zero values, all over token rows. The memory does not
grow with the number of prompts, and merging is exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float32, Float64, Int64
from memfast_kernels import Moments, merge
from torch import Tensor

from memfast.errors import InputError
from memfast.files import load_tensors, save_tensors

FORMAT = 1
_FIELDS = ("count", "mean", "m2", "max_abs", "nonzero")


@dataclass(frozen=True)
class SiteStatistics:
    """The statistics of one site; every array is [steps, neurons]."""

    moments: Moments

    @property
    def count(self) -> Int64[Tensor, "steps neurons"]:
        """Token rows seen."""
        return self.moments.count[:, None].expand_as(self.moments.mean)

    @property
    def mean(self) -> Float64[Tensor, "steps neurons"]:
        return self.moments.mean

    @property
    def variance(self) -> Float64[Tensor, "steps neurons"]:
        """Population variance over token rows."""
        return self.moments.variance

    @property
    def l2_norm(self) -> Float64[Tensor, "steps neurons"]:
        """Square root of the sum of squares over token rows."""
        return self.moments.l2_norm

    @property
    def rms(self) -> Float64[Tensor, "steps neurons"]:
        """Root mean square over token rows: comparable between sets of different sizes."""
        return self.l2_norm / self.count.clamp(min=1).sqrt()

    @property
    def max_abs(self) -> Float32[Tensor, "steps neurons"]:
        return self.moments.max_abs


class NeuronStatistics:
    """Statistics [steps, neurons] of every site of one model.

    `header` says what they were taken from: model fingerprint, schedule, seed, prompts, versions.
    `skipped` lists prompts that were left out because an activation was not finite.
    """

    def __init__(
        self,
        moments: Mapping[str, Moments],
        header: Mapping[str, Any] | None = None,
        skipped: list[dict[str, Any]] | None = None,
    ):
        self.moments = dict(moments)
        self.header = dict(header or {})
        self.skipped = list(skipped or [])

    @classmethod
    def zeros(cls, sites: Mapping[str, int], steps: int, header: Mapping[str, Any] | None = None):
        """Statistics of no rows at all, for `sites` (path -> neurons) and `steps`."""
        return cls({site: Moments.empty(steps, neurons) for site, neurons in sites.items()}, header)

    @property
    def sites(self) -> list[str]:
        return list(self.moments)

    @property
    def steps(self) -> int:
        """Number of denoising steps, counted from the noisiest."""
        return next(iter(self.moments.values())).count.shape[0] if self.moments else 0

    def __getitem__(self, site: str) -> SiteStatistics:
        if site not in self.moments:
            raise InputError(f"site {site!r} is unknown; the sites are {', '.join(self.moments)}")
        return SiteStatistics(self.moments[site])

    def __iter__(self) -> Iterator[str]:
        return iter(self.moments)

    def merge(self, other: "NeuronStatistics") -> "NeuronStatistics":
        """The statistics of both sets of prompts together (Chan et al. 1979)."""
        check_comparable(self, other)
        moments = {site: merge(self.moments[site], other.moments[site]) for site in self.moments}
        header = dict(self.header)
        for key in ("prompts", "prompts_digest"):
            if key in self.header:
                header[key] = self.header[key] + other.header[key]
        return NeuronStatistics(moments, header, self.skipped + other.skipped)

    __add__ = merge

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a JSON header, atomically."""
        tensors = {
            f"{site}/{field}": getattr(moments, field)
            for site, moments in self.moments.items()
            for field in _FIELDS
        }
        header = {**self.header, "kind": "statistics", "format": FORMAT, "sites": self.sites}
        save_tensors(Path(path), tensors, {**header, "skipped": self.skipped})

    @classmethod
    def load(cls, path: str | Path) -> "NeuronStatistics":
        """Read a file that `save` wrote. Refuses other kinds of file and newer formats."""
        tensors, header = load_tensors(Path(path), "statistics", FORMAT)
        moments = {
            site: Moments(**{field: tensors[f"{site}/{field}"] for field in _FIELDS})
            for site in header.pop("sites")
        }
        return cls(moments, header, header.pop("skipped"))


MUST_AGREE = {
    "model": "another model",
    "scheduler": "another scheduler",
    "num_inference_steps": "another schedule",
    "guidance_scale": "another guidance scale",
    "rows": "other rows",
    "row_normalised": "another normalisation",
    "seed": "another seed",
}


def check_comparable(a: NeuronStatistics, b: NeuronStatistics) -> None:
    """Raise InputError unless both come from the same model, schedule and settings."""
    for key, what in MUST_AGREE.items():
        if a.header.get(key) != b.header.get(key):
            raise InputError(
                f"statistics of {what}: {key} is {a.header.get(key)!r} in one "
                f"and {b.header.get(key)!r} in the other"
            )
    if a.sites != b.sites or a.steps != b.steps:
        raise InputError(
            f"statistics of different sites or steps: {len(a.sites)} sites × {a.steps} steps "
            f"and {len(b.sites)} sites × {b.steps} steps"
        )
