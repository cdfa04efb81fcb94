"""Attach a guard to a pipeline: looked at before or while it denoises, bit for bit the same where
nothing is flagged."""

import logging
from collections import Counter, OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float64
from torch import Tensor
from torch.utils._pytree import tree_map_only

from memfast.errors import InputError
from memfast.guarding.calibrating import calibrate_guard
from memfast.guarding.calibration import (
    ByPrompt,
    BySteps,
    GuardCalibration,
    load_calibration,
    said,
)
from memfast.guarding.looking import PromptLook
from memfast.guarding.pictures import NO_PICTURE
from memfast.guarding.policies import POLICIES
from memfast.guarding.run import GuardedRun, Record
from memfast.guarding.running import asked_of, guidance_of
from memfast.measuring.index import ImageIndex
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.schedule import Request

REMEMBERED = 4096  # prompts' scores
DEFAULT = {ByPrompt.look: ("reword", "blank"), BySteps.look: ("blank",)}
_log = logging.getLogger("memfast.guard")


class Guard:
    """A guard of one pipeline, attached by `attach`, or for the duration of a `with`.

    calibration: what `calibrate` made, its file, or the folder of an audit with references.
    policy: what is done about flagged prompts, one or several entries of `POLICIES`: each is given
    those that the one before did not settle. index: of training images, for `verify`: what
    `memfast.index_images` made, or its folder. seed: of the noises that `renew` tries.

    records: what was seen of each image of the last call, and done. counts: over all calls, of
    images, of those flagged, and by policy.

    A prompt that is not flagged gives the images that it gives without a guard, bit for bit. Who
    owns the weights can take the guard off: it protects a service, not a model.

    Raises InputError for a calibration of another model, and for policies that the pipeline or the
    calibration cannot serve.
    """

    calibrate = staticmethod(calibrate_guard)

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        calibration: GuardCalibration | str | Path,
        policy: str | Sequence[str] | None = None,
        *,
        index: ImageIndex | str | Path | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(calibration, str | Path):
            calibration = load_calibration(calibration)
        self.pipeline: Any = pipeline
        self.calibration, self.seed = calibration, seed
        self.policies = _policies(policy or DEFAULT[calibration.look])
        self.index = index if isinstance(index, ImageIndex | None) else ImageIndex.open(index)
        bare = copy(pipeline)  # what the guard itself runs stays bare when the pipeline is guarded
        asked: Request = calibration.settings.request if isinstance(calibration, ByPrompt) else {}
        self.driver = driver_of(bare, **asked)
        self._check()
        self.threshold = calibration.footing.threshold
        self.look: PromptLook | None = None
        if isinstance(calibration, ByPrompt):
            self.look = PromptLook(self.driver, calibration)
        self.records: list[Record] = []
        self.counts: Counter[str] = Counter()
        self._scores: OrderedDict[bytes, float] = OrderedDict()
        self._bare: type | None = None

    def _check(self) -> None:
        calibration, driver = self.calibration, self.driver
        if (model := fingerprint(driver.model)) != calibration.footing.model:
            raise InputError(
                f"calibration: of another model ({calibration.footing.model[:8]}…, this one is "
                f"{model[:8]}…); calibrate this one"
            )
        for name in self.policies:
            policy = POLICIES[name]
            if calibration.look not in policy.looks:
                raise InputError(
                    f"policy {name}: needs a calibration by {' or '.join(policy.looks)}, "
                    f"this one is by {calibration.look}"
                )
            if policy.guided and not driver.guided(driver.schedule()):
                raise InputError(f"policy {name}: {driver.kind} runs without guidance here")
            if policy.restarts and driver.owner is not driver.pipeline:
                kind = type(driver.owner).__name__
                raise InputError(f"policy {name}: {kind} does not begin at pure noise")
            if policy.index and self.index is None:
                raise InputError(f"policy {name}: needs index=, which `memfast index` makes")

    @property
    def told(self) -> dict[str, Any]:
        """What its figures depend on, as JSON holds it."""
        return {**said(self.calibration), "policies": [*self.policies]}

    # ------------------------------------------------------------------ on and off

    def attach(self) -> "Guard":
        """Guard every call of the pipeline from now on. Raises InputError where one does so."""
        if self._bare is not None:
            return self
        bare: Any = type(self.pipeline)
        if getattr(bare, "guarded_by_memfast", False):
            raise InputError("pipeline: has a guard already; detach it first")
        guard = self

        @wraps(bare.__call__)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return guard.run(bare.__call__, args, kwargs)

        told = {"__call__": call, "__module__": bare.__module__, "guarded_by_memfast": True}
        self._bare, self.pipeline.__class__ = bare, type(bare.__name__, (bare,), told)
        return self

    def detach(self) -> None:
        """Leave the pipeline as it was."""
        if self._bare is not None:
            self.pipeline.__class__, self._bare = self._bare, None

    def __enter__(self) -> "Guard":
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    # ------------------------------------------------------------------ a call

    def run(self, own: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One call of the pipeline, by its `own` method, under guard."""
        asked = asked_of(self.pipeline, args, kwargs)
        self._check_run(asked)
        run = GuardedRun(self, asked)
        try:
            return run.made(lambda: own(self.pipeline, *_fresh(args), **_fresh(kwargs)))
        finally:
            self.records = run.records
            self._tell(run.records)

    def _check_run(self, asked: dict[str, Any]) -> None:
        calibration = self.calibration
        if "verify" in self.policies and asked.get("output_type") == "latent":
            raise InputError(NO_PICTURE)
        if not isinstance(calibration, BySteps):
            return
        steps, weight = asked.get("num_inference_steps"), guidance_of(self.driver, asked)
        if weight is None:
            raise InputError("guard: looks at guidance's steps, and this call has no guidance")
        now = {"num_inference_steps": steps, "weight": weight}
        if now != calibration.schedule:
            raise InputError(
                f"guard: calibrated for {_said(calibration.schedule)}, called with {_said(now)}; "
                "calibrate for that, or look before the first step (look='prompt')"
            )

    def _tell(self, records: Sequence[Record]) -> None:
        self.counts["images"] += len(records)
        for record in records:
            if not record.flagged and not record.withheld:
                continue
            self.counts["flagged"] += record.flagged
            self.counts["withheld"] += record.withheld
            if record.policy:
                self.counts[f"policy {record.policy}"] += 1
            told = {**asdict(record), "threshold": self.threshold}
            _log.info("flagged %r by %s", record.prompt, record.policy, extra={"guard": told})

    def scores(self, told: Conditioning) -> Float64[Tensor, " prompts"]:
        """The score of each prompt before the first step, looked at once."""
        assert self.look is not None
        keys = [told.digest(place) for place in range(len(told))]
        new = {key: place for place, key in enumerate(keys) if key not in self._scores}
        if new:
            places = torch.tensor([*new.values()])
            self._scores |= zip(new, self.look.scores(told[places]).tolist(), strict=True)
            self.counts["looked at"] += len(new)
        found = torch.tensor([self._scores[key] for key in keys], dtype=torch.float64)
        while len(self._scores) > REMEMBERED:
            self._scores.popitem(last=False)
        return found

    def copies(self, images: Tensor) -> list[str | None]:
        """Of each image [3, height, width] in [0, 1] the training image that it copies, or None."""
        assert self.index is not None
        return self.index.copies(images)


def attach_guard(
    pipeline: DiffusionPipeline,
    calibration: GuardCalibration | str | Path,
    policy: str | Sequence[str] | None = None,
    **how: Any,
) -> Guard:
    """A guard that stays until `detach`; the arguments are `Guard`'s."""
    return Guard(pipeline, calibration, policy, **how).attach()


def _fresh(given: Any) -> Any:
    """The same with copies of its lists: some pipelines write into the prompts they are given, and
    would read that when a run begins again."""
    return tree_map_only(list, list, given, is_leaf=lambda value: isinstance(value, list))


def _policies(given: str | Sequence[str]) -> tuple[str, ...]:
    names = given.split(",") if isinstance(given, str) else given
    names = tuple(name.strip() for name in names)
    for name in names:
        if name not in POLICIES:
            raise InputError(f"policy {name!r}: must be of {', '.join(POLICIES)}")
    return names


def _said(schedule: dict[str, Any]) -> str:
    return f"{schedule['num_inference_steps']} steps and guidance {schedule['weight']:g}"


guard = Guard  # `with memfast.guard(pipeline, calibration):` reads as what it does
