"""One worker, in this process."""

from collections.abc import Callable, Iterator

from memfast.auditing.job import Job
from memfast.auditing.looking.worker import Block
from memfast.prompts import Prompt


def run_local(
    job: Job, work: Iterator[tuple[int, list[Prompt]]], done: Callable[[int, Block], None]
) -> None:
    """Block after block."""
    with job.worker() as worker:
        for number, prompts in work:
            done(number, job.compute(worker, prompts))
