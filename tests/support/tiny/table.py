"""Every kind of pipeline, tiny. Add a builder here: tests are parametrised over the table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tests.support.tiny import language, unets

TINY: dict[str, Callable[[], Any]] = {
    "sd-epsilon": partial(unets.stable_diffusion, "epsilon"),
    "sd-v": partial(unets.stable_diffusion, "v_prediction"),
    "sd-sample": partial(unets.stable_diffusion, "sample"),
    "aura-flow": language.aura_flow,
    "lumina-next": language.lumina_next,
    "lumina-next-heun": partial(language.lumina_next, "FlowMatchHeunDiscreteScheduler"),
    "lumina-2": language.lumina2,
    "lumina-2-unipc": language.lumina2_unipc,
    "qwen-image": partial(language.qwen_image, use_dynamic_shifting=True),
    "qwen-image-shifted": partial(language.qwen_image, shift=3.0),
    "z-image": partial(language.z_image, shift=3.0),
    "z-image-filled": partial(language.z_image, levels=8, use_dynamic_shifting=True),
}

ONE_A_KIND = ("sd-v",)  # a kind's plainest pipeline: what all commands are run on


def build(name: str, seed: int = 0) -> Any:
    """The pipeline of that name, always with the same random weights, ready to run."""
    torch.manual_seed(seed)
    pipeline = TINY[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
