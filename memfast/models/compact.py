"""compact: a physically smaller model that diffusers loads, saves and runs as its own.

A compact model's class is a subclass of its base, made on demand, whose config holds the width of
every feed-forward (`ffn_inner_dims`). The kept indices travel with it, so that LoRAs of the base
can be sliced.
"""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin
from diffusers.pipelines import pipeline_loading_utils
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from memfast.errors import InputError
from memfast.files import load_tensors, save_tensors
from memfast.models.families import Site, find_sites
from memfast.models.surgery import check_compensation, check_subspace, mean_output
from memfast.selection import Subspace

KEEP_FILE = "memfast_keep.safetensors"

# diffusers looks here for the methods by which it may load classes of a library it does not know.
pipeline_loading_utils.LOADABLE_CLASSES.setdefault(
    "memfast", {"ModelMixin": ["save_pretrained", "from_pretrained"]}
)


@cache
def compact_class(name: str) -> type[ModelMixin]:
    """The class `Compact<Base>` for a diffusers model class, e.g. CompactUNet2DConditionModel.

    Raises AttributeError if diffusers has no such base.
    """
    base = getattr(diffusers, name.removeprefix("Compact"), None)
    if not name.startswith("Compact") or not (
        inspect.isclass(base) and issubclass(base, ModelMixin)
    ):
        raise AttributeError(f"module 'memfast' has no attribute {name!r}")

    class Compact(base):
        """A base model whose feed-forwards keep only `ffn_inner_dims[site]` neurons."""

        def __init__(self, *args: Any, ffn_inner_dims: dict[str, int], **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.register_to_config(ffn_inner_dims=dict(ffn_inner_dims))
            self.ffn_keep: dict[str, Tensor] = {}
            for path, site in find_sites(self).items():
                if path in ffn_inner_dims:
                    _narrow(site, ffn_inner_dims[path])

        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            super().save_pretrained(save_directory, *args, **kwargs)
            if self.ffn_keep:
                header = {"kind": "keep", "format": 1}
                save_tensors(Path(save_directory) / KEEP_FILE, self.ffn_keep, header)

        @classmethod
        def from_pretrained(cls, pretrained: Any, **kwargs: Any) -> Any:
            model = super().from_pretrained(pretrained, **kwargs)
            folder = Path(str(pretrained)) / (kwargs.get("subfolder") or "")
            if (folder / KEEP_FILE).is_file():
                (model[0] if isinstance(model, tuple) else model).ffn_keep = load_tensors(
                    folder / KEEP_FILE, "keep", 1
                )[0]
            return model

    signature = inspect.signature(base.__init__)
    width = inspect.Parameter("ffn_inner_dims", inspect.Parameter.KEYWORD_ONLY)
    Compact.__init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), width]
    )
    Compact.__name__ = Compact.__qualname__ = name
    Compact.__module__ = "memfast"
    return Compact


def compact(
    model: ModelMixin, subspace: Subspace, *, multiple_of: int = 8, compensate: str = "mean"
) -> ModelMixin:
    """A smaller copy of `model` without the selected neurons; `model` itself stays as it is.

    Rows of every expanding linear and columns of the contracting one are gone. `multiple_of` rounds
    each width up by keeping some selected neurons, with zero output weights: the result stays equal
    to the masked model. `compensate="mean"` folds the removed neurons' mean contribution on the
    reference prompts into the bias.
    Raises InputError for a subspace of weights, or one that does not fit the model.
    """
    check_compensation(compensate)
    if subspace.kind != "neurons":
        raise InputError("compact needs a subspace of neurons; use prune for weights")
    if multiple_of < 1:
        raise InputError(f"multiple_of must be at least 1, not {multiple_of}")
    sites = check_subspace(model, subspace)
    replaced: dict[int, nn.Parameter] = {}  # what deepcopy is to take instead of the dense weights
    keep: dict[str, Tensor] = {}
    for path, site in sites.items():
        removed = subspace.neurons[path].cpu()
        keep[path] = kept_neurons(removed, multiple_of)
        for old, new in sliced(site, keep[path]):
            replaced[id(old)] = new
        column = torch.arange(len(keep[path])) + site.layout.offset
        weight = replaced[id(site.contraction.weight)]
        weight.data[:, column[removed[keep[path]]]] = 0
        if compensate == "mean":
            bias = site.contraction.bias
            shifted = bias.detach().float() + mean_output(site, subspace)
            replaced[id(bias)] = nn.Parameter(shifted.to(bias.dtype))
    smaller = deepcopy(model, dict(replaced))
    for path, site in find_sites(smaller).items():
        if path in keep:
            set_widths(site, len(keep[path]))
    base = type(model).__name__.removeprefix("Compact")
    smaller.__class__ = compact_class(f"Compact{base}")
    dims = dict(model.config.get("ffn_inner_dims", {}))
    smaller.register_to_config(ffn_inner_dims=dims | {p: len(index) for p, index in keep.items()})
    before = getattr(model, "ffn_keep", {})
    smaller.ffn_keep = before | {p: before[p][i] if p in before else i for p, i in keep.items()}
    return smaller


def _narrow(site: Site, neurons: int) -> None:
    """Give a freshly built block the width that its weights are about to have."""
    linears = [site.block.get_submodule(e.linear) for e in site.layout.expansions]
    new = {id(old): parameter for old, parameter in sliced(site, torch.arange(neurons))}
    for linear in [*linears, site.contraction]:
        for name, parameter in list(linear.named_parameters(recurse=False)):
            setattr(linear, name, new.get(id(parameter), parameter))
    set_widths(site, neurons)


def kept_neurons(removed: Bool[Tensor, " neurons"], multiple_of: int) -> Int64[Tensor, " kept"]:
    """Indices to keep, ascending: what is not removed, and enough of the rest to fill up a multiple.

    At least one multiple is kept, so that no layer is empty; never more than there are.
    """
    order = removed.to(torch.uint8).argsort(stable=True)
    kept = int((~removed).sum())
    rounded = max(1, -(-kept // multiple_of)) * multiple_of
    return order[: min(rounded, len(removed))].sort().values


def sliced(site: Site, keep: Tensor) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """(dense parameter, its smaller replacement) for every parameter that loses neurons."""
    for expansion in site.layout.expansions:
        linear = site.block.get_submodule(expansion.linear)
        rows = _positions(
            linear.out_features, site.neurons, keep, expansion.start, expansion.halves
        )
        yield linear.weight, _parameter(linear.weight, 0, rows)
        if linear.bias is not None:
            yield linear.bias, _parameter(linear.bias, 0, rows)
    weight = site.contraction.weight
    columns = _positions(weight.shape[1], site.neurons, keep, site.layout.offset, 1)
    yield weight, _parameter(weight, 1, columns)


def set_widths(site: Site, neurons: int) -> None:
    """Make the linears' declared sizes, and the block's own width fields, follow the weights."""
    for expansion in site.layout.expansions:
        linear = site.block.get_submodule(expansion.linear)
        linear.out_features = linear.weight.shape[0]
    site.contraction.in_features = site.contraction.weight.shape[1]
    for name in site.layout.width_attributes:
        setattr(site.block, name, neurons)


def _positions(size: int, neurons: int, keep: Tensor, start: int, halves: int) -> Tensor:
    """Which of `size` rows or columns stay, where `halves` runs of neurons begin at `start`."""
    end = start + halves * neurons
    runs = [start + half * neurons + keep for half in range(halves)]
    return torch.cat([torch.arange(start), *runs, torch.arange(end, size)])


def _parameter(old: nn.Parameter, dim: int, index: Tensor) -> nn.Parameter:
    kept = old.detach().index_select(dim, index.to(old.device))
    return nn.Parameter(kept, requires_grad=old.requires_grad)
