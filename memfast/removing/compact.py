"""compact: a physically smaller model that diffusers loads, saves and runs as its own."""

import logging
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn

from memfast.blocks.compact_class import PREFIX, base_of, compact_class
from memfast.blocks.denoisers import Denoisers
from memfast.blocks.families import Site, find_sites, uncompiled
from memfast.blocks.slicing import add_bias, kept_neurons, narrow
from memfast.errors import InputError
from memfast.removing.compensation import (
    Compensation,
    check_compensation,
    contraction_after,
    shift_bias,
)
from memfast.removing.masking import check_subspace
from memfast.removing.widths import Widths, warn_of_little_gain, widths_of
from memfast.selection import Subspace

Model = TypeVar("Model", bound=nn.Module)
_log = logging.getLogger("memfast")


@torch.no_grad()
def compact(
    model: Model,
    subspace: Subspace,
    *,
    multiple_of: int = 8,
    buckets: int | None = None,
    compensate: Compensation = "mean",
    in_place: bool = False,
) -> Model:
    """A smaller copy of `model` without the selected neurons; `model` itself stays as it is.

    Rows of every expanding linear and columns of the contracting one are gone. `multiple_of` rounds
    each width up by keeping some selected neurons, with zero output weights: the result stays equal
    to the masked model. `buckets` allows at most so many different widths, for regional compile.
    `compensate="mean"` folds the removed neurons' mean contribution on the reference prompts into
    the bias (a bias is added where there is none); corrections by least squares may be given.
    The result is an instance of the model's class, and of `memfast.Compact<class>`. `in_place`
    turns the given model itself into the result, so that memory never holds more than it and one
    block; assign it to its pipeline again, which notes a component's class when it is assigned.
    Raises InputError for a subspace of weights, or one that does not fit the model.
    """
    check_compensation(compensate)
    if subspace.kind != "neurons":
        raise InputError("compact needs a subspace of neurons; use prune for weights")
    model = uncompiled(model)
    sites = check_subspace(model, subspace)
    widths = widths_of(sites, subspace, multiple_of, buckets)
    warn_of_little_gain(subspace, widths)
    if not in_place:
        model = _copy_for_narrowing(model, sites)
        sites = {path: site for path, site in find_sites(model).items() if path in sites}
    given_a_bias = []
    for path, site in sites.items():
        weight, shift = contraction_after(site, subspace, compensate)
        keep = kept_neurons(subspace.neurons[path].cpu(), widths[path])
        narrow(site, keep)
        start = site.layout.offset
        now = site.contraction.weight.flatten(1)
        now[:, start : start + len(keep)] = weight[:, keep.to(weight.device)]
        if shift is not None:
            if site.contraction.bias is None:
                add_bias(site.contraction)
                given_a_bias.append(path)
            shift_bias(site, shift)
    _become_compact(model, widths, given_a_bias)
    return model


def _copy_for_narrowing(model: Model, sites: dict[str, Site]) -> Model:
    """A copy that shares only the weights which narrowing is about to replace."""
    shared = [
        parameter
        for site in sites.values()
        for linear in (*site.expansions, site.contraction)
        for parameter in linear.parameters(recurse=False)
        if parameter is not site.contraction.bias
    ]
    return deepcopy(model, {id(parameter): parameter for parameter in shared})


def _become_compact(model: Any, widths: Widths, given_a_bias: list[str]) -> None:
    """Make `model` an instance of its base's compact class, with the widths in its config.

    Of several denoisers, each.
    """
    if isinstance(model, Denoisers):
        for name, part in model.items():
            own = {p.removeprefix(f"{name}."): p for p in widths if p.startswith(f"{name}.")}
            biases = [short for short, path in own.items() if path in given_a_bias]
            _become_compact(part, {short: widths[path] for short, path in own.items()}, biases)
        return
    base = base_of(model)
    if base is None:
        _log.warning(
            "%s is no class of diffusers or transformers: its compact form runs, but "
            "from_pretrained will not know its widths",
            type(model).__name__,
        )
        return
    model.__class__ = compact_class(PREFIX + base.__name__)
    dims = {**(getattr(model.config, "ffn_inner_dims", None) or {}), **widths}
    biases = sorted({*(getattr(model.config, "ffn_biases", None) or ()), *given_a_bias})
    if hasattr(model, "register_to_config"):
        model.register_to_config(ffn_inner_dims=dims, ffn_biases=biases or None)
    else:
        model.config.architectures = [type(model).__name__]
        model.config.ffn_inner_dims, model.config.ffn_biases = dims, biases or None
