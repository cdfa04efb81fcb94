"""Engines: who computes the blocks. To add one, write a file here and an entry of ENGINES."""

from collections.abc import Callable, Iterator
from typing import Protocol

from memfast.auditing.engines.local import run_local
from memfast.auditing.engines.ray import run_ray
from memfast.auditing.job import Job
from memfast.auditing.looking.worker import Block
from memfast.prompts import Prompt

Work = Iterator[tuple[int, list[Prompt]]]
Done = Callable[[int, Block], None]


class Engine(Protocol):
    """Computes every block of `work`, in any order, and hands each to `done` in this process."""

    def __call__(self, job: Job, work: Work, done: Done) -> None: ...


ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray}
