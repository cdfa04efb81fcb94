"""A stop reaches the command, whatever the library that is running does with exceptions."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memfast.processes.stopping import Stopped, keeping, stopped_by_signals

SWALLOWS = """
import os, signal, sys, time
from memfast.processes.stopping import Stopped, stopped_by_signals

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

try:
    with stopped_by_signals():
        Deaf()
        for _ in range(500):
            time.sleep(0.01)
except Stopped:
    print("stopped")
"""


def test_a_swallowed_stop_comes_again() -> None:
    """In a destructor Python itself swallows it; nothing is printed of that."""
    done = subprocess.run([sys.executable, "-c", SWALLOWS], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cleaning_up_is_not_disturbed(number: signal.Signals) -> None:
    before, steps = signal.getsignal(number), []

    def work() -> None:
        try:
            with keeping(lambda: "2 of 3"):
                os.kill(os.getpid(), number)
                time.sleep(5)
        finally:
            for step in range(60):  # longer than a stop waits before it comes again
                time.sleep(0.01)
                steps.append(step)

    with stopped_by_signals() as asked, pytest.raises(Stopped, match="go on: 2 of 3 are kept"):
        work()
    assert asked.now
    assert len(steps) == 60
    assert signal.getsignal(number) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_unexpected_error_is_one_line_and_its_traceback_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from memfast.cli import main
    from memfast.evaluation import mitigations

    monkeypatch.setattr(sys, "argv", ["memfast", "families"])
    monkeypatch.delattr(mitigations, "MITIGATIONS")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 70
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: unexpected ImportError: ")
    saved = Path(line.rpartition(" ")[2])
    assert "Traceback" in saved.read_text()
    saved.unlink()
