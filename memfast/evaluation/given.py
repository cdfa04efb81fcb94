"""A model made beforehand, as a method: what was taken out of it."""

from typing import Literal

import torch
from torch import nn

from memfast.blocks.families import find_sites
from memfast.errors import InputError
from memfast.evaluation.mitigations import Mitigation, Setting, Treated
from memfast.evaluation.mitigations.pruning import reference_means
from memfast.pipelines.drivers.driver import Driver

Removed = Literal["neurons", "weights"]


def removed_share(original: nn.Module, treated: nn.Module) -> tuple[Removed | None, float]:
    """What was taken out of the feed-forwards, ("neurons" | "weights" | None, share).

    Neurons: blocks are narrower, or columns of the second linear are zero that were not. Weights:
    single entries are.
    """
    before, after = find_sites(original), find_sites(treated)
    kept = total = zeros = entries = columns = 0
    for path, site in before.items():
        if path not in after:
            raise InputError(f"--original: has a feed-forward at {path} that MODEL lacks")
        old = site.weight.detach()
        new = after[path].weight.detach()
        total += site.neurons
        entries += old.numel()
        alive = int((new != 0).any(0).sum())
        kept += alive
        columns += site.neurons - alive
        if new.shape == old.shape:
            zeros += int(((new == 0) & (old.to(new.device) != 0)).sum())
    if columns:
        return "neurons", 1 - kept / total
    return ("weights", zeros / entries) if zeros else (None, 0.0)


def shifted(original: nn.Module, treated: nn.Module) -> bool:
    """Whether a feed-forward's last bias differs: then what was removed was compensated."""
    after = find_sites(treated)
    for path, site in find_sites(original).items():
        old, new = site.contraction.bias, after[path].contraction.bias
        if (old is None) != (new is None):
            return True
        if old is not None and new is not None and not torch.equal(old, new.to(old.device)):
            return True
    return False


def given(original: Driver, treated: Driver) -> Mitigation:
    """A model made beforehand, as a mitigation. Its controls are compensated where it is."""
    kind, share = removed_share(original.model, treated.model)
    compensated = kind is not None and shifted(original.model, treated.model)

    def apply(setting: Setting) -> Treated:
        mean = reference_means(setting) if compensated else {}
        return Treated(treated, removed=share, mean=mean)

    return Mitigation("model", "given", "weights", apply, kind)
