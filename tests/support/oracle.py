"""The procedure of arXiv 2406.18566, naively: hooks, one prompt at a time, masks by sorting.

Shares no code with memfast but each prompt's noise. Everything after the model is in float64, so
that it can differ from memfast only where two scores tie to the last float.
"""

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention import FeedForward
from torch import Tensor


def norms(
    pipeline: StableDiffusionPipeline,
    prompts: list[tuple[str, torch.Generator]],
    steps: int,
    num_inference_steps: int,
    guidance_scale: float = 7.5,
) -> dict[str, list[Tensor]]:
    """{site: [steps] of float64 [neurons]}: root of the sum of squares of row-normalised H."""
    blocks = {
        path: block
        for path, block in pipeline.unet.named_modules()
        if isinstance(block, FeedForward)
    }
    calls: dict[str, list[Tensor]] = {path: [] for path in blocks}
    sums: dict[str, list[Tensor | float]] = {path: [0.0] * steps for path in blocks}

    def hook(path: str):
        def note(block: FeedForward, inputs: tuple, output: Tensor) -> None:
            projected = block.net[0].proj(inputs[0])
            value, gate = projected.chunk(2, dim=-1)
            hidden = value * torch.nn.functional.gelu(gate)
            calls[path].append(hidden.detach().cpu())

        return note

    handles = [block.register_forward_hook(hook(path)) for path, block in blocks.items()]
    for text, noise in prompts:
        for seen in calls.values():
            seen.clear()
        pipeline(
            text,
            generator=noise,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type="latent",
        )
        for path, seen in calls.items():
            for step in range(steps):
                rows = seen[step].flatten(0, 1).double()
                rows = rows / rows.norm(dim=1, keepdim=True)
                sums[path][step] = sums[path][step] + rows.square().sum(0)
    for handle in handles:
        handle.remove()
    return {path: [total.sqrt() for total in of_steps] for path, of_steps in sums.items()}


def masks(
    pipeline: StableDiffusionPipeline,
    memorized: dict[str, list[Tensor]],
    reference: dict[str, list[Tensor]],
    share: float,
    select_ratio: float = 0.0,
) -> dict[str, Tensor]:
    """{site: bool [channels, neurons]}, by a full sort of every row at every step."""
    found = {}
    for path, of_steps in memorized.items():
        weight = pipeline.unet.get_submodule(path).net[2].weight.detach().double().abs()
        times = torch.zeros_like(weight)
        for ours, theirs in zip(of_steps, reference[path], strict=True):
            scores, others = weight * ours, weight * theirs
            order = scores.sort(dim=1, descending=True, stable=True).indices
            top = torch.zeros_like(scores, dtype=torch.bool)
            top.scatter_(1, order[:, : int(share * scores.shape[1])], True)
            times += top & (scores > others)
        found[path] = times > select_ratio * len(of_steps)
    return found
