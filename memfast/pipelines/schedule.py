"""How a pipeline is run: steps, guidance and size, its own unless asked otherwise."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from inspect import signature
from math import isfinite
from typing import Any, TypedDict

from diffusers import DiffusionPipeline

from memfast.errors import InputError

KEY = "_memfast"  # in the scheduler's config, which save_pretrained and reloading keep


class Request(TypedDict, total=False):
    """What may be asked of a pipeline's run; what is left out or None is its own.

    num_inference_steps, guidance_scale. true_guidance_scale: see Schedule. height, width: pixels.
    num_frames: of a video.
    """

    num_inference_steps: int | None
    guidance_scale: float | None
    true_guidance_scale: float | None
    height: int | None
    width: int | None
    num_frames: int | None


SIZE: tuple[str, ...] = ("height", "width", "num_frames")


@dataclass(frozen=True)
class Schedule:
    """num_inference_steps and guidance_scale (1 where there is no guidance) of a run.

    true_guidance_scale: of rows without the prompt beside an embedded guidance (Flux.1); 1: none.
    """

    num_inference_steps: int
    guidance_scale: float
    true_guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        steps = self.num_inference_steps
        if not isinstance(steps, int) or steps < 1:
            raise InputError(f"num_inference_steps: a whole number from 1, not {steps!r}")
        for name in ("guidance_scale", "true_guidance_scale"):
            scale = getattr(self, name)
            if not isinstance(scale, int | float) or not isfinite(scale):
                raise InputError(f"{name}: a finite number, not {scale!r}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values; true guidance only where there is some."""
        values = asdict(self)
        if self.true_guidance_scale == 1:
            del values["true_guidance_scale"]
        return values


def own_schedule(pipeline: DiffusionPipeline, argument: str | None) -> dict[str, Any]:
    """What a pipeline is sampled with when nobody says otherwise.

    What its folder says (see `remember`), else the defaults of its own call; argument: what that
    calls its guidance scale.
    """
    call = signature(type(pipeline).__call__).parameters
    found = {"num_inference_steps": call["num_inference_steps"].default}
    found["guidance_scale"] = call[argument].default if argument and argument in call else 1.0
    return found | dict(pipeline.scheduler.config.get(KEY) or {})


def remember(pipeline: DiffusionPipeline, schedule: Schedule) -> None:
    """Make `schedule` the pipeline's own, also in every folder that it is saved to."""
    before = pipeline.scheduler.config.get(KEY) or {}
    pipeline.scheduler.register_to_config(**{KEY: {**before, **schedule.as_dict()}})


Wanted = Schedule | Mapping[str, Any] | None  # a whole schedule, or what of it is not the own
