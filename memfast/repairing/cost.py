"""What a repair of a model of any size takes: counted on the meta device, nothing is computed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """bytes: what training holds at least, weights of both models in, workspace left out.
    flops: of one outer step, attack included. Both counted, not measured."""

    weights_bytes: int
    optimiser_bytes: int
    activations_bytes: int
    flops: int

    @property
    def bytes(self) -> int:
        """The peak: two models, gradients, Adam's moments, and one step's activations."""
        return self.weights_bytes + self.optimiser_bytes + self.activations_bytes


def cost_of_step(
    model: nn.Module,
    inputs: dict[str, Any],
    *,
    rows: int,
    attacked: int,
    checkpointing: bool = False,
) -> Cost:
    """The cost of an outer step on `rows` rows, `attacked` of them driven on first (passes).

    model, inputs: on the meta device, inputs of one image. The activations are what autograd saves
    of one image, times `rows`; `checkpointing` turns on the model's gradient checkpointing.
    """
    if checkpointing:
        model.enable_gradient_checkpointing()  # type: ignore[operator]
    model.train(checkpointing)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    own = {_storage(p) for p in model.parameters()}
    saved: dict[int, Tensor] = {}  # by storage; the tensors live on, so that no number comes twice

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = model(**inputs).sample
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(**inputs)
    del output
    one = forward.get_total_flops()
    return Cost(
        weights_bytes=2 * parameters,
        optimiser_bytes=3 * parameters,
        activations_bytes=rows * sum(t.untyped_storage().nbytes() for t in saved.values()),
        flops=one * (3 * rows + rows + 3 * attacked),
    )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
