"""What tests of single models share: statistics, subspaces and outputs without a pipeline."""

import torch
from torch import Tensor, nn

from memfast.blocks.families import ffn_sites
from memfast.blocks.families.examples import Inputs, tiny_inputs
from memfast.observing.tracing import trace
from memfast.selection import Subspace
from memfast.statistics import NeuronStatistics

# What third parties say while tiny models are built, saved and run; nothing of ours.
THIRD_PARTY = (
    "ignore:In CPU autocast",
    "ignore:`.*` is deprecated:FutureWarning",
)


def run(model: nn.Module, inputs: Inputs) -> Tensor:
    """The first output of one forward pass."""
    first = model(**inputs)[0]
    return first[0] if isinstance(first, list) else first


def output(model: nn.Module, inputs: Inputs) -> Tensor:
    """The first output of one forward pass, without gradients."""
    with torch.no_grad():
        return run(model, inputs)


def statistics(name: str, model: nn.Module, seed: int) -> NeuronStatistics:
    """Statistics of one forward pass of an example's tiny model on random inputs."""
    with trace(model) as traced:
        output(model, tiny_inputs(name, model, seed))
        moments = {path: found.pool() for path, found in traced.drain().items()}
    return NeuronStatistics(moments)


def random_subspace(model: nn.Module, share: float = 0.4, seed: int = 0) -> Subspace:
    """Random neurons, with made-up means for compensation."""
    generator = torch.Generator().manual_seed(seed)
    sites = ffn_sites(model)
    return Subspace(
        {path: torch.rand(n, generator=generator) < share for path, n in sites.items()},
        mean={path: torch.randn(n, generator=generator) for path, n in sites.items()},
    )
