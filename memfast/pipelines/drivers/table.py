"""The table of drivers: which class of pipelines is driven by which kind. Add a kind here."""

from inspect import signature
from typing import Any

import diffusers
from diffusers import DiffusionPipeline
from typing_extensions import Unpack

from memfast.errors import InputError, reading
from memfast.pipelines.drivers.alpha_bar.hunyuan_dit import HunyuanDiT
from memfast.pipelines.drivers.alpha_bar.kolors import Kolors
from memfast.pipelines.drivers.alpha_bar.latent_consistency import LatentConsistency
from memfast.pipelines.drivers.alpha_bar.pixart import PixArt
from memfast.pipelines.drivers.alpha_bar.sdxl import StableDiffusionXL
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import StableDiffusion
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.flow.aura_flow import AuraFlow
from memfast.pipelines.drivers.flow.chroma import Chroma
from memfast.pipelines.drivers.flow.cogview4 import CogView4
from memfast.pipelines.drivers.flow.flux import Flux
from memfast.pipelines.drivers.flow.flux2 import Flux2, Flux2Klein, Flux2KleinKV
from memfast.pipelines.drivers.flow.lumina import Lumina2, LuminaNext
from memfast.pipelines.drivers.flow.qwen_image import QwenImage
from memfast.pipelines.drivers.flow.sana import Sana
from memfast.pipelines.drivers.flow.sd3 import StableDiffusion3
from memfast.pipelines.drivers.flow.wan import Wan
from memfast.pipelines.drivers.flow.z_image import ZImage
from memfast.pipelines.schedule import Request

DRIVERS: tuple[type[Driver], ...] = (
    StableDiffusion,
    LatentConsistency,
    StableDiffusionXL,
    Kolors,
    PixArt,
    HunyuanDiT,
    StableDiffusion3,
    Flux,
    Flux2,
    Flux2Klein,
    Flux2KleinKV,
    Chroma,
    AuraFlow,
    Lumina2,
    LuminaNext,
    QwenImage,
    ZImage,
    Sana,
    CogView4,
    Wan,
)


def driver_of(pipeline: DiffusionPipeline, **asked: Unpack[Request]) -> Driver:
    """Plain-tensor access to a pipeline, by its class; its runs are as asked, else its own.

    Pipelines that need an image or a control are driven as their text-to-image sibling, around the
    same components. Raises InputError for a class that no driver knows, for missing parts, and for
    a size that the pipeline cannot make.
    """
    names = [base.__name__ for base in type(pipeline).__mro__]
    for driver in DRIVERS:
        if set(names) & set(driver.pipelines):
            found = driver(pipeline, None, asked)
        elif set(names) & set(driver.siblings):
            found = driver(text_to_image(pipeline, driver.pipelines[0]), pipeline, asked)
        else:
            continue
        found.check_size()
        return found
    known = ", ".join(name for driver in DRIVERS for name in driver.pipelines)
    raise InputError(
        f"{names[0]}: no driver knows this pipeline; known: {known}; another kind is one file "
        "beside memfast/pipelines/drivers/flow/sd3.py, entered in drivers/table.py"
    )


def check_tells(pipeline: DiffusionPipeline, name: object) -> None:
    """Raise InputError, naming the model, for one that a driver knows, but whose tokenizers, text
    encoders or scheduler cannot tell the denoiser of a prompt."""
    names = {base.__name__ for base in type(pipeline).__mro__}
    if any(names & {*driver.pipelines, *driver.siblings} for driver in DRIVERS):
        with reading(f"MODEL {name}", "run"):
            driver_of(pipeline).encode(["a"])


def text_to_image(pipeline: Any, name: str) -> DiffusionPipeline:
    """The pipeline of that class around the components of its sibling."""
    kind = getattr(diffusers, name)
    wanted = signature(kind.__init__).parameters
    given = {**pipeline.components, **_settings(pipeline)}
    made = kind(**{key: value for key, value in given.items() if key in wanted})
    made.set_progress_bar_config(disable=True)
    return made


def as_sibling(pipeline: DiffusionPipeline) -> str | None:
    """What a pipeline is driven as, in a sentence, where it is not what it is."""
    name = type(pipeline).__name__
    for driver in DRIVERS:
        if name in driver.siblings:
            return (
                f"{name} is run from text alone, as {driver.pipelines[0]}: "
                "images, masks and controls are left out"
            )
    return None


def _settings(pipeline: Any) -> dict[str, Any]:
    """What a pipeline was configured with beside its components."""
    config = {key: value for key, value in pipeline.config.items() if key[0] != "_"}
    return {key: value for key, value in config.items() if key not in pipeline.components}
