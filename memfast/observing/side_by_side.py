"""All neurons of all sites as one row, so that one merge serves the whole model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from memfast_kernels import Moments
from memfast_kernels.moments import join
from torch import Tensor

_FIELDS = [field.name for field in fields(Moments)]


@dataclass(frozen=True)
class Row:
    """Statistics of every site's neurons side by side, for some images; all on one device.

    site: which site a neuron is of. A state over prompts is a Row of one image: 28 bytes a neuron,
    which ten steps of SD1.4 or SDXL make 0.8 or 1.8 % of the denoiser in half precision.
    """

    count: Int64[Tensor, "images sites"]
    mean: Float64[Tensor, "images neurons"]
    m2: Float64[Tensor, "images neurons"]
    max_abs: Float32[Tensor, "images neurons"]
    nonzero: Int64[Tensor, "images neurons"]
    site: Int64[Tensor, " neurons"]

    def to(self, device: torch.device | str) -> "Row":
        """The same on another device."""
        return Row(*(getattr(self, field.name).to(device) for field in fields(self)))

    @property
    def l2_norm(self) -> Float64[Tensor, "images neurons"]:
        """Square root of each neuron's sum of squares, by image."""
        return (self.m2 + self.count.double()[:, self.site] * self.mean.square()).sqrt()

    def images(self, part: slice) -> "Row":
        """Some of the images."""
        return replace(self, **{name: getattr(self, name)[part] for name in _FIELDS})

    def joined(self, other: "Row") -> "Row":
        """Both, image by image."""
        both = join(self.moments(), other.moments())
        rest = {name: getattr(both, name)[..., 0] for name in _FIELDS[1:]}
        return replace(self, count=self.count + other.count, **rest)

    def with_norms(self) -> "Row":
        """As many neurons again: of each image its root mean square, as a sample of one."""
        norms = sample(self.l2_norm / self.count.double()[:, self.site].clamp(min=1).sqrt())
        ones, sites = torch.ones_like(self.count), self.count.shape[1]
        rest = {n: torch.cat([getattr(self, n), getattr(norms, n)], 1) for n in _FIELDS[1:]}
        return Row(
            torch.cat([self.count, ones], 1),
            **rest,
            site=torch.cat([self.site, self.site + sites]),
        )

    def pooled(self, kept: Bool[Tensor, " images"]) -> "Row":
        """The images that are kept as one; what the others hold, finite or not, does not matter."""
        count = self.count * kept[:, None]
        rows = count.double()
        share = (rows / count.sum(0).clamp(min=1))[:, self.site]
        of_kept = {n: getattr(self, n).where(kept[:, None], 0) for n in _FIELDS[1:]}
        mean = (share * of_kept["mean"]).sum(0, keepdim=True)
        apart = (of_kept["mean"] - mean).square() * rows[:, self.site]
        return Row(
            count.sum(0, keepdim=True),
            mean,
            (of_kept["m2"] + apart).sum(0, keepdim=True),
            of_kept["max_abs"].amax(0, keepdim=True),
            of_kept["nonzero"].sum(0, keepdim=True),
            self.site,
        )

    def first_not_finite(self) -> Int64[Tensor, " images"]:
        """The first site with a neuron that is not finite; the number of sites where all are."""
        return torch.where(self.m2.isfinite(), self.count.shape[1], self.site).amin(1)

    def moments(self) -> Moments:
        """Count [images, neurons], the rest [images, neurons, 1]: each neuron for itself."""
        rest = (getattr(self, name)[..., None] for name in _FIELDS[1:])
        return Moments(self.count[:, self.site], *rest)

    def of_one(self) -> Moments:
        """Of one image, on the CPU: count [neurons], the rest [neurons, 1]."""
        here = self.to("cpu").moments()
        return Moments(*(getattr(here, name)[0] for name in _FIELDS))


class Places:
    """Where each site's neurons lie in a Row; sites: {path: neurons}."""

    def __init__(self, sites: Mapping[str, int]):
        self.sites = dict(sites)
        widths = torch.tensor(list(sites.values()))
        self._site = torch.arange(len(sites)).repeat_interleave(widths)

    def empty(self, images: int, device: torch.device | str = "cpu") -> Row:
        """Of no rows of any site."""
        nothing = Moments.empty(images, len(self._site), device)
        count = torch.zeros(images, len(self.sites), dtype=torch.int64, device=device)
        rest = {name: getattr(nothing, name) for name in _FIELDS[1:]}
        return Row(count, **rest, site=self._on(device))

    def row(self, seen: Mapping[str, Moments]) -> Row:
        """Of what was seen, on the first site's device; of no rows at a site that was not."""
        some = next(iter(seen.values()))
        images, device = len(some.count), some.mean.device
        parts = [
            seen[path] if path in seen else Moments.empty(images, neurons, device)
            for path, neurons in self.sites.items()
        ]
        if any(part.mean.device != device for part in parts):
            parts = [part.to(device) for part in parts]
        count = torch.stack([part.count for part in parts], 1)
        rest = {n: torch.cat([getattr(part, n) for part in parts], 1) for n in _FIELDS[1:]}
        return Row(count, **rest, site=self._on(device))

    def moments(self, row: Row) -> dict[str, Moments]:
        """Each site's own of a Row."""
        widths = list(self.sites.values())
        columns = [getattr(row, name).split(widths, 1) for name in _FIELDS[1:]]
        parts = zip(row.count.unbind(1), *columns, strict=True)
        return {path: Moments(*part) for path, part in zip(self.sites, parts, strict=True)}

    def name(self, site: int) -> str:
        """The path of a site that a Row numbers."""
        return list(self.sites)[site]

    def _on(self, device: torch.device | str) -> Tensor:
        self._site = self._site.to(device)
        return self._site


def merge_in_order(state: Row, images: Row) -> Row:
    """`state`, a Row of one image, joined with one image after another, where those lie.

    As `merge` one by one; batches that cut the images elsewhere give the same bits.
    """
    state = state.to(images.mean.device)
    site, before = images.site, torch.cat([state.count, images.count]).cumsum(0)
    exact = images.count.double() / before[1:].clamp(min=1)
    share, weight = exact[:, site], (before[:-1] * exact)[:, site]
    mean, deltas = state.mean[0], []
    for of_image, part in zip(images.mean.unbind(), share.unbind(), strict=True):
        deltas.append(of_image - mean)
        mean = mean + deltas[-1] * part
    m2 = state.m2[0]
    for of_image in (images.m2 + torch.stack(deltas).square() * weight).unbind():
        m2 = m2 + of_image
    return Row(
        before[-1:],
        mean[None],
        m2[None],
        torch.maximum(state.max_abs, images.max_abs.amax(0, keepdim=True)),
        state.nonzero + images.nonzero.sum(0, keepdim=True),
        site,
    )


def by_site(
    steps: Sequence[Moments], sites: Mapping[str, int]
) -> tuple[dict[str, Moments], dict[str, Moments]]:
    """Back from one image's Moments a step to {site: Moments [steps, neurons]}, and its norms'."""
    widths = list(sites.values()) * (len(steps[0].count) // sum(sites.values()))
    count, *others = (
        torch.stack([getattr(step, name).flatten() for step in steps]).split(widths, dim=1)
        for name in _FIELDS
    )
    parts = [Moments(rows[:, 0], *columns) for rows, *columns in zip(count, *others, strict=True)]
    moments, norms = parts[: len(sites)], parts[len(sites) :]
    return dict(zip(sites, moments, strict=True)), dict(zip(sites, norms, strict=False))


def sample(value: Float64[Tensor, "images neurons"]) -> Moments:
    """One number an image and neuron, as statistics of that number alone."""
    return Moments(
        count=torch.ones(len(value), dtype=torch.int64, device=value.device),
        mean=value,
        m2=torch.zeros_like(value),
        max_abs=value.abs().float(),
        nonzero=(value != 0).long(),
    )
