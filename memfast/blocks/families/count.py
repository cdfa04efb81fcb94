"""Count released models again: `python -m memfast.blocks.families.count [NAME …]`."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from memfast.blocks.families.examples import EXAMPLES, released
from memfast.blocks.families.figures import Figures
from memfast.blocks.sizes import flops_of, size_of

SMALL = 2**14  # entries


def count(name: str) -> Figures:
    """Figures of a released model's shapes, on the meta device."""
    example, model = EXAMPLES[name], released(name)
    size = size_of(model)
    with torch.device("meta"):
        inputs = example.inputs(model.config, example.size, example.tokens)
    try:
        total, ours = flops_of(model, inputs)
    except (RuntimeError, NotImplementedError):  # it looks at values: give what is small some
        for module in model.modules():
            for own, parameter in module.named_parameters(recurse=False):
                setattr(module, own, nn.Parameter(with_values(parameter), requires_grad=False))
        total, ours = flops_of(model, {key: with_values(value) for key, value in inputs.items()})
    parameters, flops = round(100 * size.share, 1), round(100 * ours / total, 1)
    return Figures(size.sites, size.neurons, parameters, flops)


def with_values(tensor: Any) -> Any:
    """A small tensor of the meta device as ones; anything else as it is."""
    small = isinstance(tensor, Tensor) and tensor.is_meta and tensor.numel() <= SMALL
    return torch.ones(tensor.shape, dtype=tensor.dtype) if small else tensor


if __name__ == "__main__":
    for chosen in sys.argv[1:] or EXAMPLES:
        print(f'    "{chosen}": Figures{tuple(count(chosen))},')
