"""What the kept neurons and the bias take over from the removed ones.

"mean" folds the removed neurons' mean contribution on the reference prompts into the bias.
Least squares (`memfast.removing.least_squares`) also re-solves the kept columns: a Correction a
site.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.blocks.families import Site
from memfast.errors import InputError
from memfast.selection import Subspace

COMPENSATIONS = ("mean", "none", "least_squares")


@dataclass(frozen=True)
class Correction:
    """What to add to a contracting linear: to the kept neurons' columns, and to the bias."""

    weight: Float[Tensor, "channels kept"]
    bias: Float[Tensor, " channels"] | None = None


Compensation = str | Mapping[str, Correction]


def check_compensation(compensate: Compensation) -> None:
    """Raise InputError for an unknown name, or one that needs more than a name."""
    if isinstance(compensate, Mapping):
        return
    if compensate not in COMPENSATIONS:
        raise InputError(
            f"compensate must be one of {', '.join(COMPENSATIONS)}, not {compensate!r}"
        )
    if compensate == "least_squares":
        raise InputError(
            "compensate 'least_squares' needs reference prompts: "
            "pass memfast.least_squares(pipeline, prompts, subspace)"
        )


def contraction_after(
    site: Site, subspace: Subspace, compensate: Compensation
) -> tuple[Float[Tensor, "channels neurons"], Float[Tensor, " channels"] | None]:
    """The contracting weight's columns with the selected ones (or weights) zero, compensated.

    Also what to add to the bias, float32, or None for nothing. Raises InputError for a correction
    that was solved for other neurons than these.
    """
    old = site.weight.detach()
    removed = subspace.masks[site.path].to(old.device)
    weight = old.masked_fill(removed, 0)
    if isinstance(compensate, Mapping):
        correction = compensate.get(site.path)
        if correction is None:
            return weight, None
        kept = (~removed).nonzero().flatten()
        if removed.ndim != 1 or correction.weight.shape[1] != len(kept):
            raise InputError(f"compensate: {site.path!r} was solved for other neurons than these")
        change = correction.weight.to(old.device, torch.float32)
        weight[:, kept] = (weight[:, kept].float() + change).to(weight.dtype)
        return weight, correction.bias
    if compensate == "mean" and site.path in subspace.mean and removed.any():
        mean = subspace.mean[site.path].to(old.device, torch.float32)
        if removed.ndim == 1:  # only the removed columns: a copy of all would double the peak
            return weight, old[:, removed].float() @ mean[removed]
        return weight, (old.float() * removed) @ mean
    return weight, None


def shift_bias(site: Site, shift: Float[Tensor, " channels"] | None) -> None:
    """Add `shift` to the contracting linear's bias, which it must have, in place."""
    if shift is not None:
        bias = site.contraction.bias
        with torch.no_grad():
            bias.copy_((bias.float() + shift.to(bias.device)).to(bias.dtype))
