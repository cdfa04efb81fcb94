"""Half precision: sums in float32, gradients that float16 does not round to zero, float32 weights
beneath a model that is trained in half precision.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from memfast_kernels.shapes import statistics_device
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)
FIRST_SCALE = 2.0**16  # as torch.amp.GradScaler begins


def name_of(dtype: torch.dtype) -> str:
    """A dtype as options and summaries call it: "float32"."""
    return str(dtype).removeprefix("torch.")


def wide(values: Tensor) -> Tensor:
    """The values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def exact(values: Tensor) -> Tensor:
    """The values in float64: where they are, or on the CPU where their device has none."""
    return values.to(statistics_device(values.device)).double()


class Gradients:
    """Gradients through a model whose small ones float16 would round to zero: those of the loss
    times a scale, which is halved where something overflows. Other dtypes need no scale."""

    def __init__(self, model: nn.Module):
        self.scale = FIRST_SCALE if _computes_in(model) == torch.float16 else 1.0

    def of(self, loss: Tensor, inputs: Sequence[Tensor], **how: Any) -> tuple[Tensor, ...]:
        """As `torch.autograd.grad`, whose keywords are `how`."""
        while self.scale > 1 and bool(loss.isfinite()):
            found = torch.autograd.grad(loss * self.scale, inputs, retain_graph=True, **how)
            if all(bool(g.isfinite().all()) for g in found if g is not None):
                return tuple(None if g is None else g / self.scale for g in found)  # type: ignore[misc]
            self.scale /= 2
        return torch.autograd.grad(loss, inputs, **how)


def _computes_in(model: nn.Module) -> torch.dtype:
    first = next(model.parameters())
    device = first.device.type
    on = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else first.dtype


@contextmanager
def float32_weights(model: nn.Module) -> Iterator[None]:
    """Within the context a model of half precision has weights of float32 and computes as before,
    under autocast; afterwards its weights are of its own dtype again. Others stay as they are.

    Autocast's cache is off: until the context ends it would answer with the weights' first values.
    """
    first = next(model.parameters())
    with ExitStack() as stack:
        if first.dtype in HALVES:
            own = first.dtype
            nn.Module.float(model)  # diffusers' own warns of what it keeps
            stack.callback(nn.Module.to, model, own)
            stack.enter_context(torch.autocast(first.device.type, own, cache_enabled=False))
        yield
