"""The class of a compact model: its base, with a width for every feed-forward in its config.

Made on demand as `memfast.Compact<Base>`, for bases of diffusers and of transformers. The config
holds `ffn_inner_dims` ({site: neurons}) and `ffn_biases` (sites that compensation gave a bias).
"""

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import diffusers
import torch
import transformers
from diffusers import ModelMixin
from diffusers.pipelines import pipeline_loading_utils
from torch import nn
from transformers import PreTrainedModel

from memfast.blocks.families import find_sites
from memfast.blocks.slicing import KEPT, UNKNOWN, add_bias, narrow
from memfast.errors import InputError

PREFIX = "Compact"
PORTABLE = "memfast_compact"  # what a portable folder calls the library of its compact parts
KEYS = ("ffn_inner_dims", "ffn_biases")

# diffusers looks here for the methods by which it may load classes of a library it does not know.
pipeline_loading_utils.LOADABLE_CLASSES.setdefault(
    "memfast",
    {
        "ModelMixin": ["save_pretrained", "from_pretrained"],
        "PreTrainedModel": ["save_pretrained", "from_pretrained"],
    },
)


def base_of(model: nn.Module) -> type | None:
    """The class of diffusers or transformers that `model` is an instance of, compact or not.

    None for a class of somebody else's, which could not be found again by its name.
    """
    base = getattr(type(model), "ffn_base", type(model))
    libraries = {"diffusers": diffusers, "transformers": transformers}
    library = libraries.get(base.__module__.partition(".")[0])
    return base if getattr(library, base.__name__, None) is base else None


def narrow_to(
    model: nn.Module, dims: Mapping[str, int] | None, biases: Iterable[str] | None
) -> None:
    """Give freshly built blocks the widths and biases that their weights are about to have.

    Raises InputError for a block that the model does not have, or a width that it cannot have.
    """
    if not dims:
        return
    sites = find_sites(model)
    for path, neurons in dims.items():
        limit = sites[path].neurons if path in sites else 0
        if not 1 <= neurons <= limit:
            raise InputError(
                f"ffn_inner_dims: {path!r} cannot have {neurons} neurons; "
                f"{type(model).__name__} has {limit or 'no such block'} there"
            )
    for path, neurons in dims.items():
        narrow(sites[path], torch.arange(neurons))
        sites[path].block.get_buffer(KEPT).fill_(UNKNOWN)
    for path in biases or ():
        add_bias(sites[path].contraction)


@cache
def compact_class(name: str) -> type:
    """The class `Compact<Base>`, e.g. CompactUNet2DConditionModel or CompactCLIPTextModel.

    Raises AttributeError if neither diffusers nor transformers has such a model class.
    """
    base_name = name.removeprefix(PREFIX)
    for library, root, make in (
        (diffusers, ModelMixin, _of_diffusers),
        (transformers, PreTrainedModel, _of_transformers),
    ):
        base = getattr(library, base_name, None)
        if name.startswith(PREFIX) and inspect.isclass(base) and issubclass(base, root):
            made = make(base)
            made.__name__ = made.__qualname__ = name
            made.__module__ = "memfast"
            made.__doc__ = f"{base_name} with feed-forwards of its own widths, by memfast."
            return made
    raise AttributeError(f"module 'memfast' has no attribute {name!r}")


def _of_diffusers(base: Any) -> type:
    class Compact(base):
        ffn_base = base

        def __init__(
            self,
            *args: Any,
            ffn_inner_dims: dict[str, int] | None = None,
            ffn_biases: list[str] | None = None,
            **kwargs: Any,
        ):
            super().__init__(*args, **kwargs)
            self.register_to_config(ffn_inner_dims=ffn_inner_dims, ffn_biases=ffn_biases)
            narrow_to(self, ffn_inner_dims, ffn_biases)

    # diffusers reads the signature to know which keys of a config are a model's own
    signature = inspect.signature(base.__init__)
    more = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None) for key in KEYS]
    parameters = sorted([*signature.parameters.values(), *more], key=lambda p: p.kind)
    Compact.__init__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return Compact


def _of_transformers(base: Any) -> type:
    class Compact(base):
        ffn_base = base

        def __init__(self, config: Any, *args: Any, **kwargs: Any):
            super().__init__(config, *args, **kwargs)
            narrow_to(self, *(getattr(config, key, None) for key in KEYS))

    return Compact
