"""The look before the first step: an audit's, at prompts that a running pipeline was told."""

from collections import OrderedDict
from copy import copy

import torch
from jaxtyping import Float, Float64
from memfast_kernels.shapes import statistics_device
from torch import Tensor

from memfast.auditing.looking.probes import PROBES, Scene, Unit
from memfast.auditing.looking.taps import tap
from memfast.auditing.looking.worker import score_looks
from memfast.blocks.families.finding import uncompiled
from memfast.guarding.calibration import ByPrompt
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.loading import denoisers_of, replace_denoiser
from memfast.precision import wide


class PromptLook:
    """Looks at prompts under the noises of an audit; what no prompt has touched is kept.

    reworded: by prompts' digests, what `policies.reword` told in their place, and its score.
    """

    def __init__(self, driver: Driver, calibration: ByPrompt) -> None:
        self.driver, self.calibration = _uncompiled(driver), calibration
        self.settings = calibration.settings
        self.probe = PROBES[self.settings.probe]
        self.reworded: OrderedDict[bytes, tuple[Conditioning, float]] = OrderedDict()
        here = statistics_device(self.driver.device)
        self.baselines = [baseline.to(here) for baseline in calibration.learnt.baselines]
        with torch.no_grad(), tap(self.driver) as taps:
            self.scenes = [
                Scene(self.driver, taps, self._noise(number), self.settings)
                for number in range(self.settings.noises)
            ]

    @torch.no_grad()
    def scores(
        self, told: Conditioning, noise: Latents | None = None
    ) -> Float64[Tensor, " prompts"]:
        """The deciding score of each prompt; noise: one, in place of the audit's."""
        unit, names = Unit(told, len(told)), self.calibration.learnt.names
        with tap(self.driver) as taps:
            scenes = self.scenes
            if noise is not None:
                scenes = [Scene(self.driver, taps, noise, self.settings)] * len(scenes)
            found = []
            for scene, baseline in zip(scenes, self.baselines, strict=True):
                scene.taps = taps
                found.append(score_looks(self.probe.looks(scene, unit), names, baseline).cpu())
        return self.calibration.scores(torch.stack(found, 1))

    def relative(self, told: Conditioning) -> Float[Tensor, "prompts levels"]:
        """The score `relative` at each level whose usual value is known, in units of that value.
        Under the first noise. Differentiable at the level: how it came there is taken as it is."""
        usual = self.calibration.usual.items()
        return torch.stack([self.relative_at(level, told) / value for level, value in usual], 1)

    def relative_at(self, level: float, told: Conditioning) -> Float[Tensor, " prompts"]:
        """The score `relative` one step from pure noise."""
        scene, driver, path, rows = self.scenes[0], self.driver, self.driver.path, len(told)
        begin, time = scene.schedule[0], path.time_of(level)
        start = scene.noise.expand(rows, *scene.noise.shape[1:])
        with torch.no_grad():
            output, begun = wide(driver.predict(start, begin, told)), wide(start)
            clean, noise = path.clean(output, begun, begin), path.noise(output, begun, begin)
            latents = path.add(clean, noise, time)
            empty = driver.predict(latents, time, driver.no_prompt.expand(rows))
            without = path.noise(wide(empty), latents, time)
        given = path.noise(wide(driver.predict(latents, time, told)), latents, time)
        return _length(given - without) / _length(without)

    def _noise(self, number: int) -> Tensor:
        return self.driver.initial_noise([f"audit noise {number}"], self.settings.seed)


def _length(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _uncompiled(driver: Driver) -> Driver:
    """The driver of the same parts without `torch.compile`, which would not see the neurons."""
    found = denoisers_of(driver.pipeline)
    if all(uncompiled(model) is model for model in found.values()) or len(found) > 1:
        return driver
    pipeline = copy(driver.pipeline)
    replace_denoiser(pipeline, uncompiled(next(iter(found.values()))))
    return type(driver)(pipeline, None, driver.asked)
