"""Two runs of one output at once, and lists that change while they are read."""

import time

import pytest

from tests.faults.commands import COMMANDS, leftovers, results
from tests.faults.conftest import LONG, SHORT, Runs, commands


@pytest.mark.parametrize("name", commands("audit"))
@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_two_at_once(runs: Runs, name: str, seconds: float) -> None:
    """One of them makes the output; the other makes the same, or says why not."""
    expected = runs.undisturbed(name)
    until = time.monotonic() + seconds / len(COMMANDS) / 4
    while True:
        folder = runs.new()
        first = runs.start(name, folder)
        time.sleep(runs.draw.choice([0, runs.draw.uniform(0, runs.seconds[name])]))
        second = runs.start(name, folder)
        ends = [first.ended(), second.ended()]
        assert {end.code for end in ends} <= {0, 2}, ends
        assert any(end.code == 0 for end in ends), ends
        for end in ends:
            assert end.code == 0 or end.line.startswith("error: "), end
        assert results(folder, name) == expected
        assert leftovers(folder) == []
        if time.monotonic() >= until:
            break


@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_a_list_that_changes_while_it_is_audited(runs: Runs, seconds: float) -> None:
    """Its line is named, or nothing of the change is seen; no text gets another's scores."""
    expected = runs.undisturbed("audit")
    until = time.monotonic() + seconds / 10
    path = runs.bench.names["usual"]
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    while True:
        folder = runs.new()
        run = runs.start("audit", folder)
        try:
            while not any((folder / "out").glob("blocks/block-*")) and run.process.is_alive():
                time.sleep(0.01)
            time.sleep(runs.draw.uniform(0, 0.3))
            path.write_text("".join([*lines[:-2], lines[-1], lines[-2]]))
            ended = run.ended()
        finally:
            path.write_text(whole)
        if ended.code == 0:
            assert results(folder, "audit") == expected
        else:
            assert ended.code == 2, ended
            assert str(path) in ended.line, ended
        runs.goes_on("audit", folder)
        if time.monotonic() >= until:
            break
