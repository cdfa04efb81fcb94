"""Calibrate a guard on reference prompts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from memfast.auditing.calibration import calibrate
from memfast.auditing.inputs import FEWEST, Examples, Prompts
from memfast.auditing.looking.combining import mean
from memfast.auditing.looking.probes import PROBES
from memfast.auditing.looking.scores import available
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Worker
from memfast.errors import InputError
from memfast.guarding.calibration import SCORE, ByPrompt, BySteps, Footing, GuardCalibration
from memfast.guarding.looking import PromptLook
from memfast.guarding.running import Call, Differences, Watch
from memfast.pipelines.drivers.calls import Ended, run
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule
from memfast.progress import Stage, stages
from memfast.prompts import Prompt, PromptSet, open_list
from memfast.prompts.groups import prompt_groups

LOOKS = (ByPrompt.look, BySteps.look)
PROBE, PATH = "levels", (0.3, 0.05)  # the best of all models' worst in docs/audit.md
REWORDED = (0.6, 0.3, 0.05)  # noise levels
AT_ONCE = 16  # prompts of a run that is looked at


def calibrate_guard(
    pipeline: DiffusionPipeline,
    reference: Prompts,
    *,
    look: str = ByPrompt.look,
    fpr: float = 0.01,
    settings: Settings | None = None,
    steps: int = 7,
    progress: bool | Stage = False,
) -> GuardCalibration:
    """What a guard of the pipeline compares prompts with.

    reference: prompts of the kind that will be asked for and that the model does not memorize: 20
    at least, better several times 1/fpr that are unlike one another (see `Footing.of`). look:
    "prompt", before the first step (as many denoiser rows a prompt as the probe of `settings`
    takes), or "steps", at the first `steps` of the run that `settings` ask for, which needs
    guidance and costs nothing. fpr: the share of false alarms. progress: as `audit`'s.
    Raises InputError for references or settings that cannot be used.
    """
    if look not in LOOKS:
        raise InputError(f"look {look!r}: must be one of {', '.join(LOOKS)}")
    if not 0 < fpr < 1:
        raise InputError(f"fpr {fpr}: must lie between 0 and 1")
    settings, stage = settings or Settings(probe=PROBE, path=PATH), stages(progress)
    prompts, driver = _once(reference), driver_of(pipeline, **settings.request)
    model, groups = fingerprint(driver.model), prompt_groups(prompts)

    def footing(scores: Tensor) -> Footing:
        return Footing.of(model, scores, groups, fpr)

    if look == ByPrompt.look:
        return _by_prompt(pipeline, prompts, footing, settings, driver, stage)
    return _by_steps(prompts, footing, settings, driver, steps, stage)


def _once(reference: Prompts) -> list[Prompt]:
    """Each text once."""
    given = open_list(reference) if isinstance(reference, str | Path) else PromptSet.of(reference)
    prompts = list({prompt.text: prompt for prompt in given}.values())
    if len(prompts) < FEWEST:
        raise InputError(f"reference: {len(prompts)} prompts are too few; at least {FEWEST}")
    return prompts


def _by_prompt(
    pipeline: DiffusionPipeline,
    prompts: list[Prompt],
    footing: Callable[[Tensor], Footing],
    settings: Settings,
    driver: Driver,
    stage: Stage,
) -> ByPrompt:
    if settings.adaptive is not None:
        raise InputError("adaptive: a guard looks at every prompt alike; calibrate without")
    settings = replace(settings, **driver.schedule().as_dict(), threads=torch.get_num_threads())
    probe = PROBES[settings.probe]
    names = available(probe.looks_made(settings), False, False, probe.parts(settings))
    with Worker(pipeline, settings) as worker:
        examples = Examples(prompts, [], own=False, told={})
        told = stage("calibrating", len(prompts))
        learnt = calibrate(worker, names, examples, progress=told)
    made = ByPrompt(footing(learnt.column(SCORE)), learnt, settings, usual={})
    return replace(made, usual=_usual(driver, made, [prompt.text for prompt in prompts]))


@torch.no_grad()
def _usual(driver: Driver, made: ByPrompt, texts: list[str]) -> dict[float, float]:
    """The texts' median of `relative` at the levels that `reword` goes by."""
    look, found = PromptLook(driver, made), []
    for start in range(0, len(texts), AT_ONCE):
        told = driver.encode(texts[start : start + AT_ONCE])
        found.append(torch.stack([look.relative_at(level, told) for level in REWORDED], 1))
    medians = torch.cat(found).median(0).values.tolist()
    return dict(zip(REWORDED, medians, strict=True))


def _by_steps(
    prompts: list[Prompt],
    footing: Callable[[Tensor], Footing],
    settings: Settings,
    driver: Driver,
    steps: int,
    stage: Stage,
) -> BySteps:
    schedule = driver.schedule()
    if not driver.guided(schedule):
        raise InputError(f"look steps: {driver.kind} runs without guidance here; take look prompt")
    if not 1 <= steps <= schedule.num_inference_steps:
        raise InputError(f"steps {steps}: must be 1 to {schedule.num_inference_steps}")
    advance, found = stage("calibrating", len(prompts)), []
    for start in range(0, len(prompts), AT_ONCE):
        part = prompts[start : start + AT_ONCE]
        found.append(_seen(driver, part, schedule, settings.seed, steps))
        advance(len(part))
    reference = torch.cat(found)
    if not bool(reference.isfinite().all()):
        raise InputError("reference: the model's output is not finite for some of it")
    weight = driver.weight(schedule)
    told = {"num_inference_steps": schedule.num_inference_steps, "weight": weight}
    return BySteps(footing(mean(reference, reference)), reference, told)


def _seen(
    driver: Driver, prompts: list[Prompt], schedule: Schedule, seed: int, steps: int
) -> Tensor:
    """What the first steps of the prompts' runs show, [prompts, steps]."""
    halves, found = Differences(), []

    def after(call: Call, output: Tensor) -> None:
        if (pair := halves.halves(call, output)) is not None:
            found.append(Differences.shares(*pair))
        if len(found) == steps:
            raise Ended

    sources = [generator(prompt.id, seed) for prompt in prompts]
    call: dict[str, Any] = driver.call(len(prompts), schedule)
    with Watch(driver, driver.weight(schedule), after=after).on(driver.models):
        run(
            driver.pipeline,
            prompt=[prompt.text for prompt in prompts],
            latents=driver.noise_of(sources),
            generator=sources,
            output_type="latent",
            **call,
        )
    return torch.stack(found, 1)
