"""What a worker needs to know, and nothing else: it travels to other processes and machines."""

from dataclasses import dataclass, field, replace
from typing import Any

from diffusers import DiffusionPipeline

from memfast.auditing.calibration import Calibration
from memfast.auditing.looking.gating import gated_block
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Block, Worker
from memfast.errors import InputError
from memfast.pipelines.attention import set_attention
from memfast.pipelines.drivers.table import check_tells
from memfast.pipelines.loading import load_pipeline
from memfast.prompts import Prompt


@dataclass(frozen=True)
class Job:
    """The model by name (or, in this process only, as a pipeline), the settings, the calibration.

    workers and address: for engines that have several workers, or a cluster.
    """

    settings: Settings
    calibration: Calibration | None = None
    model: str | None = None
    pipeline: DiffusionPipeline | None = field(default=None, repr=False)
    batch_size: int | None = None
    attention: str = "auto"
    workers: int = 1
    address: str | None = None

    def portable(self) -> "Job":
        """The job without its pipeline. Raises InputError when the model has no name."""
        if self.model is None:
            raise InputError("model: this engine loads it elsewhere; give its folder or hub id")
        return replace(self, pipeline=None)

    def worker(self) -> Worker:
        """A worker with the pipeline given, or else the model loaded."""
        return Worker(self.pipeline or self.load(), self.settings, self.batch_size)

    def load(self) -> DiffusionPipeline:
        """The named model, as the settings want it."""
        return open_model(self.portable().model or "", self.settings, self.attention)

    def compute(self, worker: Worker, prompts: list[Prompt]) -> Block:
        """The block of these prompts."""
        if self.calibration is None:
            raise ValueError("calibration: the job has none yet")
        learnt = self.calibration
        if learnt.adaptive is not None:
            baseline = learnt.baselines[0]
            return gated_block(worker, prompts, learnt.names, baseline, learnt.earns)
        return worker.block(prompts, learnt.names, learnt.baselines)


def open_model(model: str, settings: Settings, attention: str = "auto") -> Any:
    """The pipeline that a name stands for, in the settings' dtype and on their device."""
    import torch

    pipeline = load_pipeline(model, dtype=getattr(torch, settings.dtype), device=settings.device)
    set_attention(pipeline, attention)
    check_tells(pipeline, model)
    return pipeline
