"""What a kind of pipelines says of itself: its parts, its schedules, its own run."""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from inspect import signature
from math import inf
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import nn

from memfast.errors import InputError, reading
from memfast.pipelines.drivers.calls import Arguments, passed
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.drivers.paths import Latents, path_of
from memfast.pipelines.loading import denoiser_of, denoisers_of, replace_denoiser
from memfast.pipelines.schedule import SIZE, Request, Schedule, Wanted, own_schedule


class Kind:
    """What one kind of pipelines is made of, and how it is run; changes none of its parts.

    kind: its name. pipelines: the classes it drives. siblings: classes of the same kind that need
    an image or a control, driven as the first of `pipelines`.
    needs: the other components that it cannot do without.
    denoisers: components that denoise. latents_argument, time_argument, leaves: what the denoiser
    calls them; leaves have a row a prompt. searched: those that an attacker may search. own: leaves
    that follow from the schedule, not from the prompt.
    frames: of a video; None of a picture.
    halves: the order of rows with and without the prompt under guidance; together: in one call.
    guidance: what the pipeline's call names its scale, None where there is none; off: the scale
    that is no guidance, above which there is some; embedded: the denoiser is told the scale, and
    there are no rows without the prompt. true_guidance: what the call names the scale that adds
    such rows all the same, with a negative prompt.
    corrects: the pipeline does more to guidance's sum; see `corrected`.
    null: the caption that stands for none. streams: {a word of a site's path: "image", "text",
    "text+image" or "image+text"}, the rows that pass there, "image,text" in two runs one after the
    other; "image" where no word matches.
    enters_by_attention: a prompt reaches the denoiser through cross-attention alone, as it is given
    (nothing projects it before).
    clip_attention: what cross-attention reads are CLIP's tokens.
    """

    kind: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    siblings: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("vae", "tokenizer", "text_encoder", "scheduler")
    denoisers: ClassVar[tuple[str, ...]] = ("transformer",)
    latents_argument: ClassVar[str] = "hidden_states"
    time_argument: ClassVar[str] = "timestep"
    leaves: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    searched: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    own: ClassVar[tuple[str, ...]] = ()
    halves: ClassVar[tuple[str, str]] = (UNCONDITIONAL, CONDITIONAL)
    together: ClassVar[bool] = True
    guidance: ClassVar[str | None] = "guidance_scale"
    off: ClassVar[float] = 1.0
    embedded: bool = False
    frames: int | None = None
    true_guidance: ClassVar[str | None] = None
    corrects: ClassVar[bool] = False
    null: ClassVar[str] = ""
    streams: ClassVar[Mapping[str, str]] = {}
    enters_by_attention: ClassVar[bool] = False
    clip_attention: ClassVar[bool] = False

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        owner: DiffusionPipeline | None = None,
        asked: Request | None = None,
    ):
        """owner: the pipeline that was given, where `pipeline` is its text-to-image sibling.

        asked: what its runs are to be; the rest is the pipeline's own.
        """
        self.pipeline: Any = pipeline
        self.owner: Any = owner or pipeline
        self.asked: Request = {k: v for k, v in (asked or {}).items() if v is not None}  # type: ignore[assignment]
        self.check()
        self.models: dict[str, nn.Module] = denoisers_of(pipeline)
        self.scheduler = pipeline.scheduler  # type: ignore[attr-defined]
        self.path = path_of(self.scheduler)

    def check(self) -> None:
        """Raise InputError for a pipeline that lacks a part, or whose denoiser takes more."""
        lacking = [part for part in self.needs if getattr(self.pipeline, part, None) is None]
        denoisers = [getattr(self.pipeline, name, None) for name in self.denoisers]
        if lacking or all(model is None for model in denoisers):
            names = ", ".join(lacking or self.denoisers)
            raise InputError(
                f"{type(self.owner).__name__} has no {names}; driving it as {self.kind} needs "
                f"{', '.join((*self.denoisers[:1], *self.needs))}"
            )

    def check_channels(self, takes: int, gives: int) -> None:
        """Raise InputError for a denoiser that takes more than the latents that it gives."""
        if takes != gives:
            raise InputError(
                f"{type(self.owner).__name__}: its denoiser takes {takes} channels, {gives} of "
                "them latents (an image, a mask or a control are the rest); give the text-to-image "
                "model that it was made from"
            )

    def check_size(self) -> None:
        """Raise InputError for a size that was asked for and that the pipeline cannot make."""
        asked = self.asked_size
        if not asked:
            return
        known = signature(type(self.pipeline).__call__).parameters
        if lacking := [name for name in asked if name not in known]:
            raise InputError(f"{lacking[0]}: {type(self.owner).__name__} has none")
        try:
            made = dict(zip(SIZE, self.size, strict=False))
            self._first_calls([self.null], self._unguided)
        except ValueError as error:
            sizes = ", ".join(f"{name} {pixels}" for name, pixels in asked.items())
            raise InputError(f"{sizes}: {error}") from error
        for name, pixels in asked.items():
            if made.get(name, pixels) != pixels:
                raise InputError(
                    f"{name} {pixels}: {self.kind} would make it {made[name]}; ask for that"
                )

    @property
    def asked_size(self) -> dict[str, Any]:
        """What of the size was asked for."""
        return {name: value for name, value in self.asked.items() if name in SIZE}

    # ------------------------------------------------------------------ the model

    @cached_property
    def model(self) -> nn.Module:
        """What denoises; several as one."""
        return denoiser_of(self.pipeline)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return torch.device(self.pipeline._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's."""
        return self.model.dtype  # type: ignore[return-value]

    def with_model(self, model: nn.Module) -> Any:
        """The same pipeline around another denoising model; the given one stays as it is."""
        return type(self)(around(self.pipeline, model), around(self.owner, model), self.asked)

    # ------------------------------------------------------------------ schedules and sizes

    def schedule(self, wanted: Wanted = None, /, **given: Any) -> Schedule:
        """A schedule as it takes effect: what is asked for, else the pipeline's own."""
        wanted = vars(wanted) if isinstance(wanted, Schedule) else wanted or {}
        later = {k: v for k, v in {**wanted, **given}.items() if v is not None}
        found = {**self.defaults, **self.asked, **later}
        scale = found["guidance_scale"] if self.takes_guidance else self.off
        true = max(1.0, float(found.get("true_guidance_scale", 1)))
        if true > 1 and self.true_guidance is None:
            raise InputError(
                f"true_guidance_scale {true:g}: {self.kind} has none beside its guidance_scale; "
                "leave it at 1"
            )
        schedule = Schedule(found["num_inference_steps"], float(scale or self.off), true)
        if schedule.num_inference_steps > self.scheduler.config.get("num_train_timesteps", inf):
            with reading(f"num_inference_steps {schedule.num_inference_steps}", "run"):
                self.times(schedule)  # some schedulers can do that, others say why not
        return schedule

    @property
    def defaults(self) -> dict[str, Any]:
        """The pipeline's own schedule."""
        return own_schedule(self.pipeline, self.guidance)

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale has an effect."""
        return self.guidance is not None

    def guided(self, schedule: Schedule) -> bool:
        """Whether there are rows without the prompt."""
        if schedule.true_guidance_scale > 1:
            return True
        above = schedule.guidance_scale > self.off
        return self.takes_guidance and not self.embedded and above

    def weight(self, schedule: Schedule) -> float:
        """How far guidance goes: without the prompt + weight · (with it - without)."""
        if schedule.true_guidance_scale > 1:
            return schedule.true_guidance_scale
        return schedule.guidance_scale + 1 - self.off

    def request(self, schedule: Schedule) -> Request:
        """What asks for this driver's size and that schedule again."""
        return {**schedule.as_dict(), **self.asked_size}  # type: ignore[typeddict-item]

    def call(self, prompts: int, schedule: Schedule) -> Arguments:
        """What the pipeline's own call is given for a schedule."""
        call: Arguments = {"num_inference_steps": schedule.num_inference_steps}
        call |= self.asked_size
        if self.guidance:
            call[self.guidance] = schedule.guidance_scale
        if self.true_guidance and schedule.true_guidance_scale > 1:
            call[self.true_guidance] = schedule.true_guidance_scale
            call["negative_prompt"] = [self.null] * prompts
        return call

    def corrected(self, guided: Latents, conditional: Latents) -> Latents:
        """The output that the pipeline goes on with, of guidance's sum and the prompt's output."""
        return guided

    def times(self, schedule: Schedule) -> list[int] | list[float]:
        """The schedule's times, from the noisiest, as the pipeline makes them."""
        self._first_calls([self.null], schedule)
        return self.scheduler.timesteps.detach().cpu().tolist()

    @cached_property
    def latent_shape(self) -> tuple[int, ...]:
        """One image's latents, as the denoiser sees them, at the pipeline's own size."""
        call = self.call(1, self._unguided)
        (seen,) = passed(self.pipeline, self.models, prompt=[self.null], **call, **_quiet())
        return tuple(self.latents_of(seen).shape[1:])

    def latents_of(self, seen: Arguments) -> Latents:
        """The latents in a call of the denoiser."""
        return seen[self.latents_argument]

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One image's latents as the pipeline draws them: before any packing."""
        return self.latent_shape

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels, of the pipeline's own images."""
        height, width = self.noise_shape[-2:]
        scale = self.pipeline.vae_scale_factor
        return height * scale, width * scale

    def grid(self, own: tuple[int, int], cell: int) -> tuple[int, int]:
        """Rows and columns of cells of so many pixels: of the size asked for, else its own."""
        height, width = self.asked.get("height"), self.asked.get("width")
        return height // cell if height else own[0], width // cell if width else own[1]

    # ------------------------------------------------------------------ the pipeline's own run

    @cached_property
    def _unguided(self) -> Schedule:
        """A short schedule in which every row has its prompt."""
        return Schedule(2, self.schedule().guidance_scale if self.embedded else self.off)

    def _first_calls(
        self, texts: Sequence[str], schedule: Schedule, calls: int = 1
    ) -> list[Arguments]:
        latents = torch.zeros(len(texts), *self.latent_shape, device=self.device, dtype=self.dtype)
        call = self.call(len(texts), schedule) | {"latents": latents}
        return passed(self.pipeline, self.models, calls, prompt=list(texts), **call, **_quiet())


def around(pipeline: Any, model: nn.Module) -> Any:
    """A copy of the pipeline around another denoising model; the rest is shared."""
    result = copy(pipeline)
    replace_denoiser(result, model)
    return result


def _quiet() -> Arguments:
    """A run that no random draw of the caller's notices."""
    return {"generator": torch.Generator().manual_seed(0), "output_type": "latent"}
