"""Streaming statistics of feed-forward neurons: what one pass over any number of prompts keeps.

Per site (module path of a feed-forward block), step and neuron: count, mean and second central
moment, largest magnitude and number of non-zero values, all over token rows; and on request the
moments, over prompts, of each prompt's own norm. The tensors do not grow with the number of
prompts (the header lists their ids), and merging is exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jaxtyping import Float, Float32, Float64, Int64
from memfast_kernels import Moments, merge
from torch import Tensor

from memfast.errors import InputError, reading
from memfast.files import load_tensors, save_tensors

FORMAT = 1


@dataclass(frozen=True)
class SiteStatistics:
    """The statistics of one site; every array is [steps, neurons].

    `moments` are over token rows, `norms` over prompts: there each prompt counts once, with the
    root mean square of the neuron over its token rows.
    """

    moments: Moments
    norms: Moments | None = None

    @property
    def count(self) -> Int64[Tensor, "steps neurons"]:
        """Token rows seen."""
        return self.moments.count[:, None].expand_as(self.moments.mean)

    @property
    def mean(self) -> Float64[Tensor, "steps neurons"]:
        """Mean over token rows."""
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
        return self.l2_norm / self.count.clamp(min=1).double().sqrt()

    @property
    def max_abs(self) -> Float32[Tensor, "steps neurons"]:
        """Largest magnitude."""
        return self.moments.max_abs

    @property
    def nonzero(self) -> Int64[Tensor, "steps neurons"]:
        """Number of token rows in which the neuron was not zero."""
        return self.moments.nonzero

    @property
    def prompts(self) -> Int64[Tensor, "steps 1"]:
        """Number of prompts behind `norm_mean` and `norm_variance`."""
        return self._norms.count[:, None]

    @property
    def norm_mean(self) -> Float64[Tensor, "steps neurons"]:
        """Mean over prompts of the prompt's root mean square."""
        return self._norms.mean

    @property
    def norm_variance(self) -> Float64[Tensor, "steps neurons"]:
        """Unbiased variance over prompts of the prompt's root mean square.

        Raises InputError for fewer than two prompts.
        """
        if int(self._norms.count.min()) < 2:
            raise InputError("a variance over prompts needs at least two prompts on each side")
        return self._norms.m2 / (self.prompts - 1)

    @property
    def _norms(self) -> Moments:
        if self.norms is None:
            raise InputError(
                "these statistics hold no norms by prompt: collect them with prompt_norms=True "
                "(--prompt-norms)"
            )
        return self.norms


class NeuronStatistics:
    """Statistics [steps, neurons] of every site of one model.

    `header` says what they were taken from: model fingerprint, schedule, seed, prompts, versions.
    `skipped` lists prompts that were left out because an activation was not finite.
    """

    def __init__(
        self,
        moments: Mapping[str, Moments],
        header: Mapping[str, Any] | None = None,
        skipped: Sequence[dict[str, Any]] = (),
        norms: Mapping[str, Moments] | None = None,
    ):
        self.moments = dict(moments)
        self.norms = dict(norms or {})
        self.header = dict(header or {})
        self.skipped = list(skipped)

    def __repr__(self) -> str:
        prompts = self.header.get("prompts", "?")
        return f"NeuronStatistics({len(self.moments)} sites, {self.steps} steps, {prompts} prompts)"

    @property
    def sites(self) -> list[str]:
        """Module paths, in execution order where known."""
        return list(self.moments)

    @property
    def steps(self) -> int:
        """Number of denoising steps, counted from the noisiest."""
        return next(iter(self.moments.values())).count.shape[0] if self.moments else 0

    def __getitem__(self, site: str) -> SiteStatistics:
        if site not in self.moments:
            raise InputError(f"site {site!r} is unknown; the sites are {', '.join(self.moments)}")
        return SiteStatistics(self.moments[site], self.norms.get(site))

    def __iter__(self) -> Iterator[str]:
        return iter(self.moments)

    def merge(self, other: "NeuronStatistics") -> "NeuronStatistics":
        """The statistics of both sets of prompts together (Chan et al. 1979).

        Raises InputError for statistics of another model, schedule, setting, site or step.
        """
        check_comparable(self, other)
        if self.norms.keys() != other.norms.keys():
            raise InputError("only one of the two statistics holds norms by prompt")
        moments, norms = (
            {site: merge(state, theirs[site]) for site, state in ours.items()}
            for ours, theirs in ((self.moments, other.moments), (self.norms, other.norms))
        )
        added = {
            key: self.header[key] + other.header[key]
            for key in ADDITIVE
            if key in self.header and key in other.header
        }
        return NeuronStatistics(
            moments, {**self.header, **added}, self.skipped + other.skipped, norms
        )

    __add__ = merge

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a JSON header, atomically."""
        tensors = {
            f"{group}/{site}/{field.name}": getattr(moments, field.name)
            for group, sites in (("rows", self.moments), ("prompts", self.norms))
            for site, moments in sites.items()
            for field in fields(Moments)
        }
        header = {**self.header, "kind": "statistics", "format": FORMAT, "sites": self.sites}
        save_tensors(Path(path), tensors, {**header, "skipped": self.skipped})

    @classmethod
    def load(cls, path: str | Path) -> "NeuronStatistics":
        """Read a file that `save` wrote.

        Raises InputError for a missing or damaged file, another kind of file, or a newer format.
        """
        tensors, header = load_tensors(Path(path), "statistics", FORMAT, finite=True)
        names = [field.name for field in fields(Moments)]
        with reading(path):
            moments, norms = (
                {
                    site: Moments(**{name: tensors[f"{group}/{site}/{name}"] for name in names})
                    for site in header["sites"]
                    if group == "rows" or f"{group}/{site}/mean" in tensors
                }
                for group in ("rows", "prompts")
            )
            _check_shapes(path, [*moments.values(), *norms.values()])
            own = {"kind", "format", "sites", "skipped"}
            kept = {key: value for key, value in header.items() if key not in own}
            for key, kind in ADDITIVE.items():
                if key in kept and not isinstance(kept[key], kind):
                    raise InputError(f"{path}: damaged ({key} in its header)")
            return cls(moments, kept, header["skipped"], norms)


ADDITIVE = {
    "lists": list,
    "notes": list,
    "prompts": int,
    "prompts_digest": list,
    "prompt_ids": list,
    "text_ids": list,
}
MUST_AGREE = {
    "quantity": "another quantity",
    "model": "another model",
    "schedule": "another schedule",
    "num_inference_steps": "another schedule",
    "guidance_scale": "another guidance scale",
    "rows": "other rows",
    "row_normalised": "another normalisation",
    "padding": "another treatment of padding",
    "size": "another size of pictures",
    "shared_noise": "another kind of noise",
    "seed": "another seed",
}


def _check_shapes(path: str | Path, moments: Sequence[Moments]) -> None:
    steps = {len(each.count) for each in moments}
    for each in moments:
        shapes = {tensor.shape for tensor in (each.mean, each.m2, each.max_abs, each.nonzero)}
        if len(steps) != 1 or len(shapes) != 1 or each.mean.shape[:-1] != each.count.shape:
            raise InputError(f"{path}: damaged, its tensors' shapes do not agree")


def check_comparable(a: NeuronStatistics, b: NeuronStatistics) -> None:
    """Raise InputError unless both come from the same model, schedule and settings."""
    for key, what in MUST_AGREE.items():
        ours, theirs = a.header.get(key), b.header.get(key)
        if ours != theirs:
            if isinstance(ours, dict) or isinstance(theirs, dict):
                key, ours, theirs = _first_difference(key, ours or {}, theirs or {})
            raise InputError(
                f"statistics of {what}: {key} is {ours!r} in one and {theirs!r} in the other"
            )
    if a.sites != b.sites or a.steps != b.steps:
        raise InputError(
            f"statistics of different sites or steps: {len(a.sites)} sites at {a.steps} steps "
            f"and {len(b.sites)} sites at {b.steps} steps"
        )


def _first_difference(name: str, a: dict[str, Any], b: dict[str, Any]) -> tuple[str, Any, Any]:
    key = next(key for key in [*a, *b] if a.get(key) != b.get(key))
    return f"{name}.{key}", a.get(key), b.get(key)


def shared_prompts(a: NeuronStatistics, b: NeuronStatistics) -> list[str]:
    """Ids, in `a`, of the prompts that `b` holds too, by id or by text."""
    ids, texts = (set(b.header.get(key, ())) for key in ("prompt_ids", "text_ids"))
    ours = zip(a.header.get("prompt_ids", ()), a.header.get("text_ids", ()), strict=True)
    return [own for own, text in ours if own in ids or text in texts]


BESIDE_MEANS = ("sensitivity", "gate")  # quantities whose `norms` hold mean activations


def mean_activations(statistics: NeuronStatistics) -> dict[str, Float[Tensor, " neurons"]]:
    """Each neuron's mean over prompts and strata, float32: what compensation needs."""
    return {path: norms.mean.mean(0).float() for path, norms in statistics.norms.items()}


def reference_mean(reference: NeuronStatistics) -> dict[str, Tensor]:
    """Each site's mean activations over all rows and steps, float32 [neurons].

    Empty for statistics of gradients or of normalised rows, which say nothing about it.
    """
    header = reference.header
    if header.get("quantity") in BESIDE_MEANS:
        return mean_activations(reference)
    if header.get("row_normalised") or header.get("quantity", "activation") != "activation":
        return {}
    means = {}
    for path, moments in reference.moments.items():
        weight = moments.count.double() / moments.count.sum().clamp(min=1)
        means[path] = (weight @ moments.mean).float()
    return means
