"""A file system that refuses: one line, nothing half-written, and the same command goes on."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, leftovers
from tests.faults.conftest import LONG, SHORT, Runs, commands
from tests.faults.harness import Ended, Refusing

WORKED = "━"  # of a progress bar


def refused(ended: Ended, why: int | str, folder: Path) -> None:
    assert ended.code == 2, ended
    assert ended.line.startswith("error: "), ended
    assert (why if isinstance(why, str) else os.strerror(why)) in ended.line, ended
    assert leftovers(folder) == []


@pytest.mark.parametrize("name", commands("merge", "audit"))
@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_a_disk_that_is_full_from_a_write_on(runs: Runs, name: str, seconds: float) -> None:
    """Every new file, folder and name fails from the n-th on: each n of a long run."""
    runs.undisturbed(name)
    until = time.monotonic() + seconds / len(COMMANDS)
    after = 1 if seconds else runs.draw.randint(2, 9)
    while True:
        folder = runs.new()
        ended = runs.start(name, folder, Refusing(str(folder), after)).ended()
        if ended.code == 0:  # it writes less often
            break
        refused(ended, errno.ENOSPC, folder)
        runs.goes_on(name, folder)
        after += 1
        if time.monotonic() >= until:
            break


@contextmanager
def mounted(folder: Path, how: str) -> Iterator[None]:
    """A file system of its own in `folder`."""
    mount = ["mount", "-t", "tmpfs", "-o", how, "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", commands("audit"))
@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_a_disk_that_is_small(runs: Runs, name: str, seconds: float) -> None:
    """Any library's writes fail, in the middle of a file."""
    runs.undisturbed(name)
    until = time.monotonic() + seconds / len(COMMANDS)
    whole = runs.size(name)
    while True:
        folder = runs.new()
        size = max(20, int(runs.draw.uniform(0.1, 0.9) * whole) >> 10)
        with mounted(folder, f"size={size}k"):
            ended = runs.start(name, folder).ended()
            if ended.code:
                assert ended.code == 2, ended
                told = (os.strerror(errno.ENOSPC), "GB are free")
                assert any(words in ended.line for words in told), ended
                assert leftovers(folder) == []
            grow = ["mount", "-o", "remount,size=64m", str(folder)]
            subprocess.run(grow, check=True)
            runs.goes_on(name, folder)
        if time.monotonic() >= until:
            break


@pytest.mark.parametrize("name", commands("attack"))
def test_a_folder_that_may_only_be_read(runs: Runs, name: str) -> None:
    """It is found out before anything is computed."""
    folder = runs.new()
    with mounted(folder, "ro"):
        ended = runs.start(name, folder).ended()
        refused(ended, errno.EROFS, folder)
        assert WORKED not in ended.said
