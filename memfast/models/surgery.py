"""Removing neurons or weights without changing shapes: a masked copy, or masked for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from memfast.errors import InputError
from memfast.models.families import Site, find_sites
from memfast.models.pipelines import fingerprint
from memfast.selection import Subspace

Model = TypeVar("Model", bound=nn.Module)


def check_subspace(model: nn.Module, subspace: Subspace) -> dict[str, Site]:
    """The sites of `model` that `subspace` selects from.

    Raises InputError for a subspace of another model, an unknown site, or another shape.
    """
    sites = find_sites(model)
    taken_from = subspace.header.get("model")
    if taken_from is not None and taken_from != fingerprint(model):
        raise InputError(
            f"subspace: it was located on another model (fingerprint {taken_from}; "
            f"this {type(model).__name__} has {fingerprint(model)})"
        )
    for path, mask in subspace.masks.items():
        if path not in sites:
            raise InputError(f"subspace: unknown site {path!r}; the sites are {', '.join(sites)}")
        expected = (sites[path].neurons,)
        if subspace.kind == "weights":
            expected = (sites[path].contraction.out_features, sites[path].neurons)
        if tuple(mask.shape) != expected:
            raise InputError(f"subspace: {path!r} has shape {tuple(mask.shape)}, not {expected}")
    return {path: sites[path] for path in subspace.sites}


def _mask(model: nn.Module, subspace: Subspace, compensate: str) -> None:
    with torch.no_grad():
        for path, site in check_subspace(model, subspace).items():
            mask = subspace.masks[path].to(site.contraction.weight.device)
            if compensate == "mean":
                add_to_bias(site.contraction, mean_output(site, subspace))
            site.contraction.weight[:, site.columns].masked_fill_(mask, 0)


def mean_output(site: Site, subspace: Subspace) -> torch.Tensor:
    """What the removed neurons or weights add to the block's output on average, [channels].

    float32, from the reference prompts' mean activation; zero where the subspace holds none.
    """
    weight = site.contraction.weight[:, site.columns].detach().float()
    mean = subspace.mean.get(site.path)
    if mean is None:
        return weight.new_zeros(weight.shape[0])
    removed = subspace.masks[site.path].to(weight.device)
    return (weight * removed) @ mean.to(weight.device, torch.float32)


def add_to_bias(linear: nn.Linear, shift: torch.Tensor) -> None:
    """Add `shift` [channels] to a linear's bias, giving it one if it has none and needs it."""
    if linear.bias is None:
        if not shift.any():
            return
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))
    with torch.no_grad():
        linear.bias += shift.to(linear.bias.dtype)


def prune(model: Model, subspace: Subspace, *, compensate: str = "none") -> Model:
    """A copy of `model` with the selected weights (or neurons' columns) set to zero.

    Same shapes, same class. `compensate="mean"` adds what they contributed on average to the bias.
    Raises InputError if the subspace does not fit the model.
    """
    check_compensation(compensate)
    copy = deepcopy(model)
    _mask(copy, subspace, compensate)
    return copy


@contextmanager
def ablate(model: Model, subspace: Subspace, *, compensate: str = "none") -> Iterator[Model]:
    """Within the context `model` runs pruned; afterwards every parameter is bit for bit as before."""
    check_compensation(compensate)
    sites = check_subspace(model, subspace)
    saved = {
        path: (site.contraction.weight.detach().clone(), site.contraction.bias)
        for path, site in sites.items()
    }
    biases = {p: None if b is None else b.detach().clone() for p, (_, b) in saved.items()}
    try:
        _mask(model, subspace, compensate)
        yield model
    finally:
        with torch.no_grad():
            for path, site in sites.items():
                weight, bias = saved[path]
                site.contraction.weight.copy_(weight)
                site.contraction.bias = bias
                if bias is not None:
                    bias.copy_(biases[path])


COMPENSATIONS = ("mean", "none")


def check_compensation(name: str) -> None:
    """Raise InputError for an unknown compensation."""
    if name not in COMPENSATIONS:
        raise InputError(f"compensate must be one of {', '.join(COMPENSATIONS)}, not {name!r}")
