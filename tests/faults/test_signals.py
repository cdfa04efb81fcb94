"""SIGTERM and SIGINT: exit code 130, one line that says how to go on, nothing unfinished left."""

import signal
import time

import pytest

from tests.faults.commands import COMMANDS, leftovers
from tests.faults.conftest import LONG, SHORT, Runs, commands
from tests.faults.harness import alive


@pytest.mark.parametrize("name", commands("audit", "repair"))
@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_stopped(runs: Runs, name: str, seconds: float) -> None:
    runs.undisturbed(name)
    until = time.monotonic() + seconds / len(COMMANDS) / 4
    while True:
        folder = runs.new()
        run = runs.start(name, folder)
        run.process.join(0.05 + runs.some_time(name) * 0.9)
        number = runs.draw.choice([signal.SIGTERM, signal.SIGINT])
        run.send(number)
        ended = run.ended(60)
        assert ended.code in (130, 0, -number), ended  # -number: before the command began
        if ended.code == 130:
            assert ended.line.startswith("stopped: "), ended
            assert "run the same command" in ended.line
            if name == "audit" and "kept" in ended.line:
                blocks = len(list((folder / "out" / "blocks").glob("block-*")))
                assert f"{blocks} of 7 blocks are kept" in ended.line
            assert leftovers(folder) == []
        runs.goes_on(name, folder)
        if time.monotonic() >= until:
            break


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphans(runs: Runs, number: signal.Signals) -> None:
    """Workers end with their parent, however that ends."""
    folder = runs.new()
    run = runs.start("evaluate", folder, extra=("--workers", "2"))
    deadline = time.monotonic() + 120
    while len(workers := run.children()) < 2 and run.process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert run.process.is_alive()
    run.send(number)
    ended = run.ended(60)
    assert ended.code in (-number, 130), ended
    deadline = time.monotonic() + 10
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, f"{workers} live on"
        time.sleep(0.02)
    runs.goes_on("evaluate", folder)
