"""What every test of faults starts from: the inputs, and each command's undisturbed results."""

import os
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import COMMANDS, Bench, results
from tests.faults.harness import Ended, Run

SECONDS = float(os.environ.get("MEMFAST_SOAK_SECONDS", "3600"))  # of each test under -m soak
LONG = pytest.param(SECONDS, id="soak", marks=pytest.mark.soak)
SHORT = pytest.param(0.0, id="short")


def commands(*everyday: str) -> list[Any]:
    """Parameters of a test: every command, those that are not for every day under soak alone."""
    rest = pytest.mark.soak
    return [n if n in everyday else pytest.param(n, marks=rest) for n in COMMANDS]


@dataclass
class Runs:
    """Runs commands in new folders, and knows what they come to when nothing disturbs them."""

    bench: Bench
    root: Path
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    count: int = 0

    def start(self, name: str, folder: Path, fault: Any = None, extra: tuple[str, ...] = ()) -> Run:
        """The command, writing in `folder`."""
        self.count += 1
        words = [*self.bench.words(name, folder), *extra]
        return Run(words, self.root / f"{self.count}.log", COMMANDS[name].before, fault)

    def new(self) -> Path:
        """A folder to write in."""
        self.count += 1
        folder = self.root / f"run-{self.count}"
        folder.mkdir()
        return folder

    def undisturbed(self, name: str) -> dict[str, str]:
        """The results of a command."""
        if name not in self.expected:
            folder, started = self.new(), time.perf_counter()
            ended = self.start(name, folder).ended()
            assert ended.code == 0, ended
            self.seconds[name] = time.perf_counter() - started
            self.expected[name] = results(folder, name)
            self.folders[name] = folder
        return self.expected[name]

    def size(self, name: str) -> int:
        """Bytes of what a command leaves."""
        self.undisturbed(name)
        return sum(p.stat().st_size for p in self.folders[name].rglob("*") if p.is_file())

    def some_time(self, name: str) -> float:
        """Seconds that lie within a run of a command, or a little after."""
        self.undisturbed(name)
        return self.draw.uniform(0, 1.1 * self.seconds[name])

    def goes_on(self, name: str, folder: Path) -> Ended:
        """What the same command comes to in a folder that a run has left: the expected results and
        nothing else, made now or there already."""
        ended = self.start(name, folder).ended()
        if ended.code == 2:  # its output is there: all of it, and the command says so
            assert "--overwrite" in ended.line, ended
        assert ended.code in (0, 2), ended
        assert results(folder, name) == self.undisturbed(name)
        beside = {path.name for path in self.folders[name].iterdir()}
        assert {path.name for path in folder.iterdir()} == beside
        return ended


@pytest.fixture(scope="session")
def runs(tmp_path_factory: Any) -> Runs:
    root = tmp_path_factory.mktemp("faults")
    (root / "bench").mkdir()
    runs = Runs(Bench(root / "bench"), root)
    names = runs.bench.names
    for command, name in (
        ("locate", "subspace"),
        ("compact", "compact"),
        ("collect", "statistics"),
    ):
        folder = runs.new()
        assert runs.start(command, folder).ended().code == 0
        shutil.move(folder / COMMANDS[command].out, names[name])
    folder = runs.new()
    words = ["collect", names["model"], "--prompts", names["reference"], "--out", names["others"]]
    assert Run([*words, "--num-inference-steps", "2"], root / "others.log").ended().code == 0
    return runs
