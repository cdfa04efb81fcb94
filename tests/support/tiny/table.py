"""Every kind of pipeline, tiny. Add a builder here: tests are parametrised over the table."""

from collections.abc import Callable, Container, Iterable
from functools import partial
from typing import Any

import diffusers
import pytest
import torch

from tests.support.tiny import alpha_bar, gemma, glm, joint, language, unets, videos
from tests.support.tiny.kolors import kolors

TINY: dict[str, Callable[[], Any]] = {
    "sd-epsilon": partial(unets.stable_diffusion, "epsilon"),
    "sd-v": partial(unets.stable_diffusion, "v_prediction"),
    "sd-sample": partial(unets.stable_diffusion, "sample"),
    "sd-distilled": partial(unets.stable_diffusion, "epsilon", time_cond_proj_dim=16),
    "lcm": unets.latent_consistency,
    "sdxl-euler": partial(alpha_bar.sdxl, "EulerDiscreteScheduler"),
    "sdxl-turbo": partial(alpha_bar.sdxl, "EulerAncestralDiscreteScheduler", zeros=False),
    "sdxl-lcm": partial(alpha_bar.sdxl, "LCMScheduler", time_cond_proj_dim=16),
    "sdxl-dpm-one-clip": partial(alpha_bar.sdxl, "DPMSolverMultistepScheduler", one_clip=True),
    "kolors": kolors,
    "pixart-sigma": partial(alpha_bar.pixart, "Sigma", "DPMSolverMultistepScheduler", 32),
    "pixart-alpha": partial(alpha_bar.pixart, "Alpha", "DDPMScheduler", 128),
    "pixart-dmd": partial(alpha_bar.pixart, "Alpha", "LCMScheduler", 8, learned=False, levels=2),
    "hunyuan-dit": alpha_bar.hunyuan_dit,
    "sd3": joint.sd3,
    "sd3-no-t5": partial(joint.sd3, False, scheduler=joint.dpm_solver()),
    "sd35": partial(joint.sd3, dual=(0,), scheduler=diffusers.FlowMatchHeunDiscreteScheduler()),
    "flux-dev": partial(joint.flux, True),
    "flux-schnell": partial(joint.flux, False),
    "flux2": joint.flux2,
    "klein": joint.klein,
    "klein-distilled": partial(joint.klein, is_distilled=True),
    "klein-kv": partial(joint.klein, "Flux2KleinKVPipeline"),
    "chroma": joint.chroma,
    "aura-flow": language.aura_flow,
    "lumina-next": language.lumina_next,
    "lumina-next-heun": partial(language.lumina_next, "FlowMatchHeunDiscreteScheduler"),
    "lumina-2": language.lumina2,
    "lumina-2-unipc": language.lumina2_unipc,
    "qwen-image": partial(language.qwen_image, use_dynamic_shifting=True),
    "qwen-image-shifted": partial(language.qwen_image, shift=3.0),
    "z-image": partial(language.z_image, shift=3.0),
    "z-image-filled": partial(language.z_image, levels=8, use_dynamic_shifting=True),
    "sana": gemma.sana,
    "sana-sigma": partial(gemma.sana, "euler", side=8, out=8),
    "cogview4": glm.cogview4,
    "cogview4-fixed": partial(glm.cogview4, dynamic=False),
    "wan": partial(videos.wan, frames=5),
    "wan-2": partial(videos.wan, boundary=0.9, frames=5, scheduler="unipc"),
    "wan-still": partial(videos.wan, boundary=0.9, frames=1),
    "wan-patches": partial(videos.wan, expand_timesteps=True, frames=5),
}

ONE_A_KIND = (  # a kind's plainest pipeline: what all commands are run on
    "sd-v",
    "lcm",
    "sdxl-euler",
    "kolors",
    "pixart-sigma",
    "hunyuan-dit",
    "sd3",
    "flux-dev",
    "flux2",
    "klein",
    "klein-kv",
    "chroma",
    "aura-flow",
    "lumina-next",
    "lumina-2",
    "qwen-image",
    "z-image",
    "sana",
    "cogview4",
    "wan",
    "wan-2",
)

EVERYDAY = ("sd-v", "sdxl-euler", "flux-dev", "z-image")  # the kinds that CI runs all commands on


def marked(names: Iterable[str], everyday: Container[str]) -> list[Any]:
    """Parameters of a test: what is not for every day is run by `pytest -m kinds`."""
    rest = pytest.mark.kinds
    return [name if name in everyday else pytest.param(name, marks=rest) for name in names]


def build(name: str, seed: int = 0) -> Any:
    """The pipeline of that name, always with the same random weights, ready to run."""
    torch.manual_seed(seed)
    pipeline = TINY[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
