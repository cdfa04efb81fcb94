"""Watch a model's feed-forward neurons while it runs, without hooks, copies or a second projection.

Gated blocks (GEGLU, SwiGLU) get the fused operator in place of their activation; every other block
gets a thin wrapper around its contracting linear. Both only append to a list, which
`torch.compile` traces through. On leaving the context every module is back, the same objects.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from memfast_kernels import Moments, column_moments, geglu, geglu_linear
from torch import Tensor, nn

from memfast.blocks.families import Site, find_sites
from memfast.errors import InputError


class FusedGate(nn.Module):
    """Takes the place of a packed gate: one projection, one fused gate with statistics.

    On a CPU the projection is fused as well, which keeps it in cache; but not one that is more
    than a linear (LoRA, quantised, offloaded, under autocast), which has to be asked.
    """

    def __init__(self, gate: nn.Module, activation: str, seen: list[Moments]):
        super().__init__()
        self.proj = gate.get_submodule("proj")
        self.fuses_projection = is_bare(self.proj) and self.proj.weight.device.type == "cpu"
        self.activation = activation
        self.seen = seen

    def forward(self, hidden: Tensor, *args, **kwargs) -> Tensor:
        how: dict[str, Any] = {
            "activation": self.activation,
            "moments": True,
            "segment_rows": _rows_per_image(hidden),
        }
        if self.fuses_projection and not torch.is_autocast_enabled("cpu"):
            linear: Any = self.proj
            neurons, moments = geglu_linear(hidden, linear.weight, linear.bias, **how)
            self.seen.append(moments)
            return neurons
        projected = self.proj(hidden)
        neurons, moments = geglu(projected.flatten(0, -2), **how)
        self.seen.append(moments)
        return neurons.unflatten(0, projected.shape[:-1])


def is_bare(linear: nn.Module) -> bool:
    """Whether nothing but the weight and bias of a linear decides what it computes."""
    changed = "forward" in vars(linear) or linear._forward_hooks or linear._forward_pre_hooks
    return type(linear) is nn.Linear and not changed


class ObservedLinear(nn.Module):
    """Takes the place of a contracting linear and takes statistics of the neurons it reads."""

    def __init__(self, site: Site, row_normalised: bool, seen: list[Moments]):
        super().__init__()
        self.linear = site.contraction
        self.columns = site.columns
        self.row_normalised = row_normalised
        self.seen = seen

    def __getattr__(self, name: str):
        """Blocks may ask their linear for more than its output (T5: its weight's dtype)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_modules" not in self.__dict__:  # half made, by copy or pickle
                raise
            return getattr(self._modules["linear"], name)

    def forward(self, inputs: Tensor, *args, **kwargs) -> Tensor:
        neurons = inputs[..., self.columns].flatten(0, -2)
        weight = 1 / neurons.float().norm(dim=1).clamp(min=1e-12) if self.row_normalised else None
        self.seen.append(
            column_moments(neurons, row_weight=weight, segment_rows=_rows_per_image(inputs))
        )
        return self.linear(inputs, *args, **kwargs)


class Trace:
    """What the neurons did since the last `drain`."""

    def __init__(self, sites: dict[str, Site]):
        self.sites = sites
        self.seen: dict[str, list[Moments]] = {path: [] for path in sites}

    def drain(self) -> dict[str, Moments]:
        """The moments of each site in the one forward pass since the last drain.

        One segment per image of the batch; neurons in the model's order. Raises RuntimeError if a
        site ran more or less than once, which would count rows twice or not at all.
        """
        for path, seen in self.seen.items():
            if len(seen) != 1:
                raise RuntimeError(f"{path} ran {len(seen)} times in one forward pass, expected 1")
        return {path: seen.pop() for path, seen in self.seen.items()}


@contextmanager
def trace(model: nn.Module, *, row_normalised: bool = False) -> Iterator[Trace]:
    """Within the context, each forward pass of `model` leaves its neurons' moments in the Trace.

    `row_normalised` divides each token row by its L2 norm first (arXiv 2406.18566, as coded).
    Raises InputError if the model's feed-forwards are chunked along the batch.
    """
    sites = find_sites(model)
    for path, module in model.named_modules():
        if getattr(module, "_chunk_size", None) is not None:
            raise InputError(
                f"feed-forward chunking is on at {path or 'the model'}: "
                "call disable_forward_chunking() before collecting"
            )
    traced = Trace(sites)
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path, site in sites.items():
            seen, layout = traced.seen[path], site.layout
            fused = layout.gate is not None and layout.activation is not None and not row_normalised
            name = layout.gate if fused else layout.contraction
            parent_name, _, child_name = name.rpartition(".")  # type: ignore[union-attr]
            parent = site.block.get_submodule(parent_name)
            child = parent.get_submodule(child_name)
            tap = (
                FusedGate(child, layout.activation, seen)  # type: ignore[arg-type]
                if fused
                else ObservedLinear(site, row_normalised, seen)
            )
            replaced.append((parent, child_name, child))
            parent._modules[child_name] = tap.train(child.training)
        yield traced
    finally:
        for parent, child_name, child in replaced:
            parent._modules[child_name] = child


def _rows_per_image(hidden: Tensor) -> int:
    """Token rows of one image: all dimensions between the batch and the channels."""
    return max(1, int(torch.Size(hidden.shape[1:-1]).numel()))
