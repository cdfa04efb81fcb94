"""What the blocks of two models make of the same input, beside their final outputs.

A student that must agree with its teacher block by block learns faster than from the output alone.
Source: Kim et al. 2023, BK-SDM (arXiv 2305.15798), there for models without some of their blocks.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from memfast.blocks.families import find_sites
from memfast.errors import InputError
from memfast.precision import wide

LEAST = 1e-6  # mean square of an output that others are measured against


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """A denoiser's blocks by path: the elements of its lists of modules, and each other part of it
    that holds a feed-forward."""
    sites = list(find_sites(model))
    found: dict[str, nn.Module] = {}
    for name, part in model.named_children():
        if isinstance(part, nn.ModuleList):
            found |= {f"{name}.{place}": block for place, block in enumerate(part)}
        elif any(site.startswith(f"{name}.") for site in sites):
            found[name] = part
    return found


class Outputs:
    """Within the context `found` holds what each block returned: the tensors of each of its runs,
    not those nested deeper (a UNet's skip connections)."""

    def __init__(self, model: nn.Module, on: bool = True):
        self.blocks = blocks_of(model) if on else {}
        self.found: dict[str, list[list[Tensor]]] = {}

    def __enter__(self) -> "Outputs":
        self.found = {path: [] for path in self.blocks}
        self.handles = [
            block.register_forward_hook(self._keeping(path)) for path, block in self.blocks.items()
        ]
        return self

    def _keeping(self, path: str) -> Any:
        def after(module: object, inputs: object, output: Any) -> None:
            several = output if isinstance(output, tuple | list) else [output]
            self.found[path].append([each for each in several if isinstance(each, Tensor)])

        return after

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def distance(
    ours: Mapping[str, list[list[Tensor]]], theirs: Mapping[str, list[list[Tensor]]], rows: int
) -> Float[Tensor, " rows"]:
    """Each row's squared difference over the mean square of theirs, the mean of all blocks.

    Counted are blocks that ran once on all rows. Raises InputError where there are none.
    """
    found = []
    for path, runs in theirs.items():
        if len(runs) != 1 or len(ours[path]) != 1:
            continue
        for own, their in zip(ours[path][0], runs[0], strict=True):
            if own.shape == their.shape and their.is_floating_point() and len(their) == rows:
                size = wide(their).square().mean().clamp(min=LEAST)
                error = (wide(own) - wide(their)).square().flatten(1).mean(1)
                found.append(error / size)
    if not found:
        raise InputError("features: no block of this model runs once on all rows; leave them out")
    return sum(found[1:], found[0]) / len(found)
