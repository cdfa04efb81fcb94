"""Killed at any moment, a command goes on: no finished unit is lost, and no bit differs."""

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, leftovers, units
from tests.faults.conftest import LONG, SHORT, Runs, commands
from tests.faults.harness import Counting, Dying

CHAIN = 12  # kills of one output, at most, before it may finish
tally: Counter[str] = Counter()


def kill_once(runs: Runs, name: str, folder: Path) -> bool:
    """Kill a run; whether it still ran. What was finished before is untouched after."""
    before = units(folder, name)
    run = runs.start(name, folder)
    run.process.join(runs.some_time(name))
    run.send(signal.SIGKILL)
    ended = run.ended()
    assert ended.code in (-9, 0, 2), ended
    if ended.code == -9 and name != "repair":
        after = units(folder, name)
        lost = {unit for unit in before if after.get(unit) != before[unit]}
        done = (folder / "out" / "summary.json").exists()  # nothing needs them any more
        assert not lost or done, lost
        tally["units"] += len(after)
    return ended.code == -9


@pytest.mark.parametrize("name", commands("collect", "compact", "audit", "evaluate", "repair"))
@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_kills(runs: Runs, name: str, seconds: float) -> None:
    runs.undisturbed(name)
    until, chain = time.monotonic() + seconds / len(COMMANDS), CHAIN if seconds else 1
    while True:
        folder = runs.new()
        for _ in range(runs.draw.randint(1, chain)):
            tally[name] += kill_once(runs, name, folder)
        runs.goes_on(name, folder)
        assert leftovers(folder) == []
        if time.monotonic() >= until:
            break
    print(f"kills so far: {dict(tally)}, in all {sum(tally[name] for name in COMMANDS)}")


@pytest.mark.parametrize("name", commands("merge", "repair"))
@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_killed_before_a_change_on_disk(runs: Runs, name: str, seconds: float) -> None:
    """From the last to the first; the last ones are where a result stands but not all is done."""
    runs.undisturbed(name)
    folder, until = runs.new(), time.monotonic() + seconds / len(COMMANDS)
    counting = Counting(str(folder), 1)
    assert runs.start(name, folder, counting).ended().code == 0
    last = counting.count
    first = 1 if seconds else last - 2
    for after in range(last, first - 1, -1):
        folder = runs.new()
        ended = runs.start(name, folder, Dying(str(folder), after)).ended()
        assert ended.code == -9, ended
        runs.goes_on(name, folder)
        assert leftovers(folder) == []
        tally["changes"] += 1
        if seconds and time.monotonic() >= until:
            break
    print(f"killed before a change: {tally['changes']}")


@pytest.mark.soak
def test_an_unfinished_repair_never_goes_back(runs: Runs) -> None:
    """The step that a checkpoint holds only grows."""
    from memfast.files import read_tensors

    folder, steps = runs.new(), [0]
    for _ in range(3):
        run = runs.start("repair", folder)
        run.process.join(runs.some_time("repair"))
        run.send(signal.SIGKILL)
        run.ended()
        for path in folder.glob("out.repair*.safetensors"):
            header = read_tensors(path)[1]["memfast"]
            steps.append(int(header.partition('"step": ')[2].partition(",")[0].rstrip("}")))
    assert steps == sorted(steps)
    runs.goes_on("repair", folder)
