"""Removing neurons or weights without changing shapes: a masked copy, or masked for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from memfast.blocks.families import Site, find_sites
from memfast.blocks.slicing import add_bias, check_plain
from memfast.errors import InputError
from memfast.pipelines.identity import fingerprint
from memfast.removing.compensation import (
    Compensation,
    check_compensation,
    contraction_after,
    shift_bias,
)
from memfast.selection import Subspace

Model = TypeVar("Model", bound=nn.Module)


def check_subspace(model: nn.Module, subspace: Subspace) -> dict[str, Site]:
    """The sites of `model` that `subspace` selects from.

    Raises InputError for a subspace of another model, an unknown site or another shape, and for
    blocks that are quantized, adapted or offloaded.
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
            expected = tuple(sites[path].weight.shape)
        if tuple(mask.shape) != expected:
            raise InputError(f"subspace: {path!r} has shape {tuple(mask.shape)}, not {expected}")
        check_plain(sites[path])
    return {path: sites[path] for path in subspace.sites}


def _mask(model: nn.Module, subspace: Subspace, compensate: Compensation) -> None:
    with torch.no_grad():
        for site in check_subspace(model, subspace).values():
            weight, shift = contraction_after(site, subspace, compensate)
            site.weight.copy_(weight)
            if shift is not None:
                add_bias(site.contraction)
                shift_bias(site, shift)


def prune(model: Model, subspace: Subspace, *, compensate: Compensation = "none") -> Model:
    """A copy of `model` with the selected weights (or neurons' columns) set to zero.

    Same shapes, same class. `compensate="mean"` adds what they contributed on average to the bias.
    Raises InputError if the subspace does not fit the model.
    """
    check_compensation(compensate)
    copy = deepcopy(model)
    _mask(copy, subspace, compensate)
    return copy


@contextmanager
def ablate(
    model: Model, subspace: Subspace, *, compensate: Compensation = "none"
) -> Iterator[Model]:
    """Within the context `model` runs pruned; afterwards it is bit for bit as before."""
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
                    bias.copy_(biases[path])  # type: ignore[arg-type]
