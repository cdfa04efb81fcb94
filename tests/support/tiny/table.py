"""Every kind of pipeline, tiny. Add a builder here: tests are parametrised over the table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tests.support.tiny import gemma, glm, unets, videos

TINY: dict[str, Callable[[], Any]] = {
    "sd-epsilon": partial(unets.stable_diffusion, "epsilon"),
    "sd-v": partial(unets.stable_diffusion, "v_prediction"),
    "sd-sample": partial(unets.stable_diffusion, "sample"),
    "sana": gemma.sana,
    "sana-sigma": partial(gemma.sana, "euler", side=8, out=8),
    "cogview4": glm.cogview4,
    "cogview4-fixed": partial(glm.cogview4, dynamic=False),
    "wan": partial(videos.wan, frames=5),
    "wan-2": partial(videos.wan, boundary=0.9, frames=5, scheduler="unipc"),
    "wan-still": partial(videos.wan, boundary=0.9, frames=1),
    "wan-patches": partial(videos.wan, expand_timesteps=True, frames=5),
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
