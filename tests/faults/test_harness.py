"""A run that is starved of processors is waited for; one that hangs is not."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.harness import CONTEXT, Run, in_line

WORK, PATIENCE, OTHERS = 0.5, 1.5, 5  # seconds of a processor, seconds, and who wants it too


def work(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while time.process_time() < WORK:
        pass


def spin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


@contextmanager
def crowded(core: int) -> Iterator[None]:
    """Others at work on a processor."""
    others = [CONTEXT.Process(target=spin, args=(core,)) for _ in range(OTHERS)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def run_of(target, argument: object, log: Path) -> Run:
    run = Run.__new__(Run)
    run.log, run.process = log, CONTEXT.Process(target=target, args=(argument,))
    log.touch()
    run.process.start()
    return run


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="nobody counts")
def test_a_starved_run_is_waited_for(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with crowded(core):
        started = time.monotonic()
        assert run_of(work, core, tmp_path / "log").ended(PATIENCE).code == 0
        assert time.monotonic() - started > PATIENCE


def test_a_run_that_sleeps_is_not(tmp_path: Path) -> None:
    run = run_of(time.sleep, 600, tmp_path / "log")
    with pytest.raises(AssertionError, match="hangs"):
        run.ended(1)
    assert in_line(run.process.pid) == 0  # it is gone
