"""The source of a compact model's class for where memfast is not installed."""

from typing import Any

from memfast.blocks.compact_class import base_of
from memfast.blocks.families import Site, find_sites
from memfast.blocks.families.linears import arguments_of, is_convolution

_FILE = '''"""{name}: a {base} with feed-forwards of its own widths.

Written by memfast {version} for this model alone, which loads with trust_remote_code=True.
"""

import inspect

import torch
from {library} import {base}
from torch import nn

# block -> its linears' classes and arguments, attributes that follow, neurons
BLOCKS = {blocks}


def resize(model):
    """Give freshly built blocks the widths that their weights are about to have."""
    for path, block in BLOCKS.items():
        module = model.get_submodule(path)
        for name, (kind, arguments) in block["linears"].items():
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, getattr(nn, kind)(**arguments))
        for name, value in block["attributes"].items():
            setattr(module, name, value)
        module.register_buffer(
            "kept_neurons", torch.full((block["neurons"],), -1, dtype=torch.int32)
        )


class {name}({base}):
    ffn_base = {base}

    {init}
'''
_DIFFUSERS = """def __init__(self, *args, ffn_inner_dims=None, ffn_biases=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_to_config(ffn_inner_dims=ffn_inner_dims, ffn_biases=ffn_biases)
        resize(self)


_KEYS = [
    inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None)
    for key in ("ffn_inner_dims", "ffn_biases")
]
_BASE = inspect.signature({base}.__init__)
{name}.__init__.__signature__ = _BASE.replace(
    parameters=sorted([*_BASE.parameters.values(), *_KEYS], key=lambda p: p.kind)
)"""
_TRANSFORMERS = """def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        resize(self)"""


def source_of(model: Any) -> str:
    """A Python file that defines the class of a compact model, sizes included."""
    from memfast.version import __version__

    base: Any = base_of(model)
    library = base.__module__.partition(".")[0]
    names = {"name": type(model).__name__, "base": base.__name__}
    init = (_DIFFUSERS if library == "diffusers" else _TRANSFORMERS).replace(
        "{base}", base.__name__
    )
    dims = model.config.ffn_inner_dims
    blocks = {path: _block(site) for path, site in find_sites(model).items() if path in dims}
    return _FILE.format(
        **names,
        library=library,
        version=__version__,
        init=init.replace("{name}", names["name"]),
        blocks="".join(["{\n", *(f"    {p!r}: {block!r},\n" for p, block in blocks.items()), "}"]),
    )


def _block(site: Site) -> dict[str, Any]:
    layout = site.layout
    linears = {
        e.linear: linear for e, linear in zip(layout.expansions, site.expansions, strict=True)
    }
    linears[layout.contraction] = site.contraction
    return {
        "linears": {
            name: ("Conv2d" if is_convolution(linear) else "Linear", arguments_of(linear))
            for name, linear in linears.items()
        },
        "attributes": dict.fromkeys(layout.width_attributes, site.neurons),
        "neurons": site.neurons,
    }
