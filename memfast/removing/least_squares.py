"""Least-squares compensation: the kept neurons re-learn what the removed ones said.

A block's output on a token row is W·h. With the neurons h split into kept k and removed r, the best
A in W_r·r ≈ A·k + b over the reference rows needs only sums over rows, of k·kᵀ and of (W_r·r)·kᵀ:
they are streamed, a Gram matrix a block, and the reference prompts are never held.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from memfast_kernels.shapes import statistics_device
from torch import Tensor, nn

from memfast.blocks.families import Site
from memfast.observing.collecting import collect
from memfast.pipelines.loading import denoiser_of
from memfast.progress import Advance
from memfast.prompts import PromptSet
from memfast.removing.compensation import Correction
from memfast.removing.masking import check_subspace
from memfast.selection import Subspace

GIBIBYTE = 1 << 30


class Gram:
    """Sums over token rows, at one site, of products of the kept neurons and the lost output."""

    def __init__(self, site: Site, removed: Tensor):
        weight = site.weight.detach()
        removed = removed.to(weight.device)
        self.site = site
        self.kept, self.lost = ((mask.nonzero().flatten()) for mask in (~removed, removed))
        self.weight = weight[:, self.lost].float()
        self.constant = site.contraction.bias is not None
        size = len(self.kept) + self.constant
        here = statistics_device(weight.device)  # there may be no float64
        self.inputs = torch.zeros(size, size, dtype=torch.float64, device=here)
        self.outputs = torch.zeros(len(weight), size, dtype=torch.float64, device=here)

    @torch.no_grad()
    def add(self, inputs: Tensor) -> None:
        """Count the rows of one call of the contracting linear; rows not finite are left out."""
        rows = self.site.neurons_in(inputs).flatten(0, -2).float()
        rows = rows[rows.isfinite().all(1)]
        kept = rows[:, self.kept.to(rows.device)]
        lost = rows[:, self.lost.to(rows.device)] @ self.weight.T.to(rows.device)
        if self.constant:
            kept = torch.cat([kept, kept.new_ones(len(kept), 1)], 1)
        self.inputs += (kept.T @ kept).to(self.inputs.device)
        self.outputs += (lost.T @ kept).to(self.inputs.device)

    def solve(self, ridge: float) -> Correction:
        """The correction, with `ridge` times the mean energy of a neuron on the diagonal."""
        neurons = len(self.kept)
        penalty = torch.zeros_like(self.inputs.diagonal())
        penalty[:neurons] = ridge * self.inputs.diagonal()[:neurons].mean().clamp(min=1e-12)
        penalty[neurons:] = 1e-12
        solution = torch.linalg.solve(self.inputs + penalty.diag(), self.outputs.T).T.float()
        return Correction(solution[:, :neurons], solution[:, neurons] if self.constant else None)


def least_squares(
    pipeline: DiffusionPipeline,
    prompts: PromptSet | Sequence[str],
    subspace: Subspace,
    *,
    ridge: float = 1e-4,
    memory: int = 4 * GIBIBYTE,
    progress: bool | Advance = False,
    **settings: Any,
) -> dict[str, Correction]:
    """A correction for every site, solved on all rows of the reference `prompts`.

    Pass it as `compensate` to compact, prune or ablate. Blocks without bias get none. `settings`
    are those of `collect`. One pass where all Gram matrices fit into `memory` bytes, else as many
    as it takes; `progress`, as `collect`'s, is of every pass.
    Raises InputError where `collect` does, and for a subspace that does not fit the model.
    """
    sites = check_subspace(denoiser_of(pipeline), subspace)
    removed = {path: mask for path, mask in subspace.neurons.items() if mask.any()}
    corrections: dict[str, Correction] = {}
    for group in passes(
        {path: gram_bytes(sites[path], mask) for path, mask in removed.items()}, memory
    ):
        grams = {path: Gram(sites[path], removed[path]) for path in group}
        with listening(sites, grams):
            collect(pipeline, prompts, progress=progress, **settings)
        for path in group:
            corrections[path] = grams.pop(path).solve(ridge)
    return corrections


@contextmanager
def listening(sites: Mapping[str, Site], grams: Mapping[str, Gram]) -> Iterator[None]:
    """Within the context every call of a site's contracting linear is counted in its Gram."""

    def hook(gram: Gram) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: gram.add(inputs[0])

    handles = [
        sites[path].contraction.register_forward_pre_hook(hook(gram))
        for path, gram in grams.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gram_bytes(site: Site, removed: Tensor) -> int:
    """What a site's sums take, in float64."""
    size = int((~removed).sum()) + 1
    return 8 * size * (size + len(site.contraction.weight))


def passes(sizes: Mapping[str, int], memory: int) -> list[list[str]]:
    """Sites, in order, in as few groups as fit into `memory` each; a single site always fits."""
    groups: list[list[str]] = []
    used = 0
    for path, size in sizes.items():
        if not groups or used + size > memory:
            groups.append([])
            used = 0
        groups[-1].append(path)
        used += size
    return groups
