"""Ray actors, on an existing cluster or a local one; Ray itself retries the blocks of lost ones."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from memfast.auditing.job import Job
from memfast.auditing.looking.worker import Block
from memfast.errors import InputError
from memfast.prompts import Prompt

RESTARTS = 20  # of each actor; then its block is given up and the run stops, resumable
CPUS = 0.1  # of each actor: asking for whole ones stalls small machines


def run_ray(
    job: Job, work: Iterator[tuple[int, list[Prompt]]], done: Callable[[int, Block], None]
) -> None:
    """Blocks over `job.workers` actors, one GPU each where the device is a GPU.

    Raises InputError when ray is not installed, or when an actor dies again and again.
    """
    try:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool
    except ImportError:
        raise InputError("engine 'ray' needs ray: pip install 'memfast[ray]'") from None

    own = not ray.is_initialized()
    if own:
        ray.init(address=job.address, log_to_driver=False, logging_level=logging.ERROR)
    device = job.settings.device.partition(":")[0]  # each actor sees its own GPU, as the first
    job = replace(job.portable(), settings=replace(job.settings, device=device))
    options: dict[str, Any] = {
        "num_cpus": CPUS,
        "num_gpus": 1 if device in ("cuda", "xpu") else 0,
        "max_restarts": RESTARTS,
        "max_task_retries": RESTARTS,
    }
    actors = [ray.remote(Actor).options(**options).remote(job) for _ in range(job.workers)]
    try:
        pool = ActorPool(actors)
        for item in work:
            if not pool.has_free():
                done(*pool.get_next_unordered())
            pool.submit(lambda actor, value: actor.compute.remote(*value), item)
        while pool.has_next():
            done(*pool.get_next_unordered())
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, InputError) else error from None
    except RayActorError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"a ray worker was lost {RESTARTS} times ({reason})") from error
    finally:
        for actor in actors:
            ray.kill(actor)  # pyright: ignore[reportArgumentType]
        if own:
            ray.shutdown()


class Actor:
    """One worker in a process of its own."""

    def __init__(self, job: Job) -> None:
        self.job, self.worker = job, job.worker()

    def compute(self, number: int, prompts: list[Prompt]) -> tuple[int, Block]:
        return number, self.job.compute(self.worker, prompts)
