"""One worker, in this process."""

from collections.abc import Callable, Iterator

from memfast.auditing.job import Job
from memfast.auditing.looking.worker import Block


def run_local(
    job: Job, work: Iterator[tuple[int, list[str]]], done: Callable[[int, Block], None]
) -> None:
    """Block after block."""
    with job.worker() as worker:
        for number, texts in work:
            done(number, job.compute(worker, texts))
