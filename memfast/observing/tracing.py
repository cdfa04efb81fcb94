"""Watch a model's feed-forward neurons while it runs, without hooks, copies or a second projection.

Gated blocks (GEGLU, SwiGLU) get the fused operator in place of their activation; every other block
gets a thin wrapper around its contracting linear. Both only append to a list, which
`torch.compile` traces through. On leaving the context every module is back, the same objects.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import torch
from jaxtyping import Bool
from memfast_kernels import (
    Moments,
    Prepared,
    column_moments,
    fuses,
    geglu,
    geglu_linear,
    merge,
    prepare,
)
from torch import Tensor, nn

from memfast.blocks.families import Site, find_sites
from memfast.blocks.families.linears import to_rows
from memfast.errors import InputError
from memfast.pipelines.drivers.driver import Driver


class FusedGate(nn.Module):
    """Takes the place of a packed gate: one projection, one fused gate with statistics.

    The projection is fused as well where that is faster, with weights laid out for it once.
    """

    def __init__(self, gate: nn.Module, activation: str, seen: list[Moments]):
        super().__init__()
        self.proj = gate.get_submodule("proj")
        self.activation = activation
        self.seen = seen
        self.prepared: Prepared | None = None

    def forward(self, hidden: Tensor, *args, **kwargs) -> Tensor:
        how: dict[str, Any] = {
            "activation": self.activation,
            "segment_rows": _rows_per_image(hidden),
        }
        linear: Any = self.proj
        if fuses_projection(linear, hidden):
            neurons, moments = geglu_linear(hidden, *self._weights(linear), moments=True, **how)
            self.seen.append(moments)
            return neurons
        projected = linear(hidden)
        neurons, moments = geglu(projected.flatten(0, -2), moments=True, **how)
        self.seen.append(moments)
        return neurons.unflatten(0, projected.shape[:-1])

    def _weights(self, linear: Any) -> tuple[Any, ...]:
        """The linear's own; on a GPU a copy that its kernel reads, made again when they change."""
        weight, bias = linear.weight, linear.bias
        if weight.device.type == "cpu":
            return weight, bias
        if self.prepared is None or not self.prepared.serves(weight, bias):
            self.prepared = None  # both copies need not fit
            self.prepared = prepare(weight, bias)
        return (self.prepared,)


def fuses_projection(linear: Any, hidden: Tensor) -> bool:
    """Whether a projection is fused in this call: where that is faster, and not one that is more
    than a linear (LoRA, quantised, offloaded, under autocast), which has to be asked."""
    device = hidden.device
    if torch.is_autocast_enabled(device.type) or not is_bare(linear):
        return False
    if linear.weight.device != device or linear.weight.dtype != hidden.dtype:
        return False
    if device.type == "cpu":
        return True
    plain = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return plain and fuses(hidden, linear.weight)


def is_bare(linear: nn.Module) -> bool:
    """Whether nothing but the weight and bias of a linear decides what it computes."""
    changed = "forward" in vars(linear) or linear._forward_hooks or linear._forward_pre_hooks
    return type(linear) is nn.Linear and not changed


Own = tuple[Tensor, list[int]]  # which rows of all images count, and how many of each
Counted = Callable[[int, torch.device], Own | None]  # of so many rows an image; None for all


class ObservedLinear(nn.Module):
    """Takes the place of a contracting linear and takes statistics of the neurons it reads."""

    def __init__(self, site: Site, row_normalised: bool, seen: list[Moments], counted: Counted):
        super().__init__()
        self.linear = site.contraction
        self.columns = site.columns
        self.row_normalised = row_normalised
        self.seen = seen
        self.counted = counted

    def __getattr__(self, name: str):
        """Blocks may ask their linear for more than its output (T5: its weight's dtype)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_modules" not in self.__dict__:  # half made, by copy or pickle
                raise
            return getattr(self._modules["linear"], name)

    def forward(self, inputs: Tensor, *args, **kwargs) -> Tensor:
        taken = to_rows(self.linear, inputs)
        length = _rows_per_image(taken)
        neurons = taken[..., self.columns].flatten(0, -2)
        own = self.counted(length, neurons.device)
        if own is None:
            self.seen.append(self._moments(neurons, length))
        else:
            index, sizes = own
            images = neurons.index_select(0, index).split(sizes)
            self.seen.append(Moments.cat([self._moments(rows, len(rows)) for rows in images]))
        return self.linear(inputs, *args, **kwargs)

    def _moments(self, neurons: Tensor, rows: int) -> Moments:
        return column_moments(neurons, row_normalised=self.row_normalised, segment_rows=rows)


class Trace:
    """What the neurons did since the last `drain`."""

    def __init__(self, sites: dict[str, Site], driver: Driver | None = None):
        self.sites = sites
        self.driver = driver
        self._text_rows: Tensor | None = None
        self._own: dict[tuple[str, int, int], Own | None] = {}  # while those are the text's rows
        self.seen: dict[str, list[Moments]] = {path: [] for path in sites}

    @property
    def replayable(self) -> bool:
        """Whether a pass is the same whatever it is told: where no row may be padding."""
        return not any(map(self.padded, self.sites))

    def padded(self, path: str) -> bool:
        """Whether rows at a site may be padding."""
        return self.driver is not None and self.driver.padded(path)

    @property
    def text_rows(self) -> Tensor | None:
        """Which rows of the text stream are no padding in the coming pass; None counts all."""
        return self._text_rows

    @text_rows.setter
    def text_rows(self, rows: Tensor | None) -> None:
        if rows is not self._text_rows:
            self._text_rows = rows
            self._own.clear()

    def counted(self, path: str, length: int, device: torch.device) -> Own | None:
        """Which rows count at a site that is about to run, of images of `length` rows.

        Where they lie is read from the device once for all passes with the same `text_rows`.
        """
        if self.driver is None or self.text_rows is None:
            return None
        key = path, length, len(self.seen[path])
        if key not in self._own:
            own = self.driver.counted(path, self.text_rows, length, key[2])
            self._own[key] = None if own is None else _places(own.cpu(), device)
        return self._own[key]

    def drain(self) -> dict[str, Moments]:
        """The moments of each site in the one forward pass since the last drain.

        One segment per image of the batch; neurons in the model's order. Of several models the
        one that ran. Raises RuntimeError if a site ran more or less often than its driver says
        (once), which would count rows twice or not at all.
        """
        models = self.driver.models if self.driver is not None else {}
        ran = [path for path, seen in self.seen.items() if seen]
        for path, seen in self.seen.items():
            model = path.partition(".")[0]
            idle = len(models) > 1 and not any(other.startswith(f"{model}.") for other in ran)
            runs = self.driver.runs(path) if self.driver is not None else 1
            if len(seen) != runs and not idle:
                raise RuntimeError(
                    f"{path} ran {len(seen)} times in one forward pass, expected {runs}"
                )
        moments = {path: reduce(merge, self.seen[path]) for path in ran}
        self.clear()
        return moments

    def clear(self) -> None:
        """Forget what was seen."""
        for seen in self.seen.values():
            seen.clear()


@contextmanager
def trace(
    model: nn.Module, *, row_normalised: bool = False, driver: Driver | None = None
) -> Iterator[Trace]:
    """Within the context, each forward pass of `model` leaves its neurons' moments in the Trace.

    `row_normalised` divides each token row by its L2 norm first (arXiv 2406.18566, as coded).
    `driver` knows which rows are padding (see `Trace.text_rows`).
    Raises InputError if the model's feed-forwards are chunked along the batch.
    """
    sites = find_sites(model)
    for path, module in model.named_modules():
        if getattr(module, "_chunk_size", None) is not None:
            raise InputError(
                f"feed-forward chunking is on at {path or 'the model'}: "
                "call disable_forward_chunking() before collecting"
            )
    traced = Trace(sites, driver)
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path, site in sites.items():
            seen, layout = traced.seen[path], site.layout
            gated = layout.gate is not None and layout.activation is not None
            fused = gated and not row_normalised and not traced.padded(path)
            name = layout.gate if fused else layout.contraction
            parent_name, _, child_name = name.rpartition(".")  # type: ignore[union-attr]
            parent = site.block.get_submodule(parent_name)
            child = parent.get_submodule(child_name)
            tap = (
                FusedGate(child, layout.activation, seen)  # type: ignore[arg-type]
                if fused
                else ObservedLinear(site, row_normalised, seen, partial(traced.counted, path))
            )
            replaced.append((parent, child_name, child))
            parent._modules[child_name] = tap.train(child.training)
        yield traced
    finally:
        for parent, child_name, child in replaced:
            parent._modules[child_name] = child


def _places(own: Bool[Tensor, "images rows"], device: torch.device) -> Own:
    return own.flatten().nonzero().flatten().to(device), own.sum(1).tolist()


def _rows_per_image(hidden: Tensor) -> int:
    """Token rows of one image: all dimensions between the batch and the channels."""
    return max(1, int(torch.Size(hidden.shape[1:-1]).numel()))
