"""What others look at, from their formulas, on the same noises and models."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from memfast.auditing.looking.probes import Look, Scene, Unit
from memfast.precision import wide

PROBED = 0.05  # of the way: Asthana and Belagiannis take the third last of 50 steps
SHIFT = 1e-2  # of a latent's length, for a finite difference


def alignment(scene: Scene, unit: Unit) -> Tensor:
    """The mean cosine, over channels at each place, of the unconditional prediction and the
    difference that the prompt makes, on pure noise at a low noise level: one row, since the
    unconditional prediction is every prompt's (Asthana and Belagiannis, arXiv 2601.20642)."""
    driver, size = scene.driver, len(unit.conditioning)
    time = scene.schedule[-3]
    latents = scene.noise.expand(size, *scene.noise.shape[1:])
    given = scene.look(latents, time, unit.conditioning).prediction.noise
    empty = scene.look(latents, time, driver.no_prompt.expand(size)).prediction.noise
    return (
        torch.cosine_similarity(empty, given - empty, dim=1)
        .flatten(1)
        .mean(1)[: unit.rows]
        .double()
        .cpu()
    )


def curvature(scene: Scene, unit: Unit, first: Look) -> Tensor:
    """The length of the Hessian difference times the score difference at pure noise, by a finite
    difference: two rows more (Jeon et al., ICML 2025, arXiv 2412.04140)."""
    size, time = len(unit.conditioning), scene.schedule[0]
    latents = scene.noise.expand(size, *scene.noise.shape[1:])
    gap = first.prediction.noise - scene.empty.noise
    length = gap.flatten(1).norm(dim=1)
    scale = SHIFT * latents.flatten(1).norm(dim=1) / length.clamp(min=1e-12)
    shape = (-1, *(1,) * (gap.ndim - 1))
    moved = scene.both(latents + scale.view(shape) * gap, time, unit.conditioning)
    change = (moved.prediction.noise - (moved.empty or scene.empty).noise) - gap
    return (change.flatten(1).norm(dim=1) / scale)[: unit.rows].double().cpu()


def updates(scene: Scene, looks: list[Look]) -> dict[int, Tensor]:
    """By number of steps, the length of each guided update of the latents, [rows, steps]
    (Broken Memories, arXiv 2605.22050: memorized ones leave the region of the references')."""
    lengths, latents = [], scene.noise
    result = {}
    for number, (look, before) in enumerate(zip(looks, scene.schedule, strict=False), 1):
        if number == len(scene.schedule):
            break
        after = scene.step(scene.guided(look, before), scene.schedule[number])
        lengths.append((wide(after) - wide(latents)).flatten(1).norm(dim=1).cpu().double())
        latents = after
        result[number] = torch.stack(lengths, 1)
    return result


def last_step(scene: Scene, unit: Unit) -> tuple[Tensor, int]:
    """The summed squared difference that the prompt makes after the whole of sampling: the
    score-difference proxy of the curvature difference (arXiv 2605.26756)."""
    look, times = scene.first(unit), scene.schedule
    for before, time in pairwise(times):
        latents = scene.step(scene.guided(look, before), time)
        look = scene.both(latents, time, unit.conditioning)
    gap = wide(look.prediction.noise) - wide((look.empty or scene.empty).noise)
    return gap.square().flatten(1).sum(1)[: unit.rows].double().cpu(), 2 * len(times) - 1


def attention_entropy(scene: Scene, unit: Unit) -> Tensor | None:
    """The mean over cross-attentions of the entropy of the attention that tokens get, averaged over
    places and heads, at pure noise (Ren et al., ECCV 2024, arXiv 2403.11052); None where there is
    no cross-attention."""
    seen: list[Tensor] = []
    handles = []
    for module in scene.driver.model.modules():
        if hasattr(module, "to_k") and hasattr(module, "get_attention_scores"):

            def see(module: Any, args: tuple, kwargs: dict) -> None:
                told = kwargs.get("encoder_hidden_states")
                if told is None or getattr(module, "add_k_proj", None) is not None:
                    return
                query = module.head_to_batch_dim(
                    module.to_q(
                        args[0].flatten(2).transpose(1, 2) if args[0].ndim == 4 else args[0]
                    )
                )
                key = module.head_to_batch_dim(module.to_k(told))
                share = module.get_attention_scores(query, key)
                share = share.unflatten(0, (len(told), -1)).mean((1, 2))
                seen.append(-(share * share.clamp(min=1e-12).log()).sum(1))

            handles.append(module.register_forward_pre_hook(see, with_kwargs=True))
    try:
        size = len(unit.conditioning)
        latents = scene.noise.expand(size, *scene.noise.shape[1:])
        scene.look(latents, scene.schedule[0], unit.conditioning)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen).mean(0)[: unit.rows].double().cpu() if seen else None
