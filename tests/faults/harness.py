"""Commands in children of a process that has imported everything: a run costs no start.

A child may be killed, signalled, or run with a fault: a file system that refuses at a given write.
"""

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.preloaded"])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the server's too
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
REFUSED = ("os.rename", "os.mkdir", "os.link")  # beside opening to write
GONE = ("os.remove", "os.rmdir")


@dataclass(frozen=True)
class Ended:
    """code: negative for a signal. said: what stood on stderr."""

    code: int
    said: str

    @property
    def line(self) -> str:
        """The last line of stderr."""
        return (self.said.strip().splitlines() or [""])[-1]


class Run:
    """A running command."""

    def __init__(self, words: Sequence[Any], log: Path, *first: Callable[[], None] | None) -> None:
        """first: what is called in its process before it begins."""
        self.log = log
        given = [*map(str, words)], str(log), [each for each in first if each]
        target: Any = CONTEXT.Process(target=_run, args=given)
        self.process = target
        target.start()

    def send(self, number: signal.Signals) -> None:
        """A signal, if it still runs."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def ended(self, timeout: float = 300) -> Ended:
        """How it ended. Killed after `timeout` seconds in which it had a processor, or needed none.

        Others' use of the machine makes a run slow, and says nothing of it.
        """
        waited = {}
        while self.process.is_alive() and timeout > 0:
            started, before = time.monotonic(), waited
            self.process.join(0.5)
            waited = {process: in_line(process) for process in (self.process.pid, *self.children())}
            since = [now - before.get(process, 0) for process, now in waited.items()]
            timeout -= max(0, time.monotonic() - started - max(since))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"it hangs: {self.log.read_text()[-2000:]}")
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        assert "Traceback" not in text, text
        return Ended(self.process.exitcode, text)

    def children(self) -> list[int]:
        """The processes that it started, and theirs."""
        found, parents = [], {self.process.pid}
        for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent in parents:
                parents.add(int(entry.name))
                found.append(int(entry.name))
        return found


def alive(process: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def in_line(process: int) -> float:
    """Seconds that a process has waited for a processor since it began; 0 where nobody counts."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0


@dataclass
class Refusing:
    """From the `after`-th on, every new file, folder, link and name under `folder` is refused."""

    folder: str
    after: int
    reason: int = errno.ENOSPC
    seen: int = 0
    events: ClassVar[tuple[str, ...]] = REFUSED

    def __call__(self) -> None:
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & WRITING if mode is None else set(mode or "") & set("wax+")
        else:
            path, writes = arguments[0] if arguments else None, event in self.events
        if not writes or not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        self.seen += 1
        if self.seen >= self.after:
            self.strike(path)

    def strike(self, path: Any) -> None:
        raise OSError(self.reason, os.strerror(self.reason), os.fsdecode(path))


class Dying(Refusing):
    """Killed before the `after`-th change under `folder`."""

    events = (*REFUSED, *GONE)

    def strike(self, path: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Counting(Dying):
    """Nothing happens, and how many changes there were can be told."""

    @property
    def count(self) -> int:
        return len(self._notes.read_bytes())

    @property
    def _notes(self) -> Path:
        return Path(self.folder).parent / f"changes in {Path(self.folder).name}"

    def strike(self, path: Any) -> None:
        with self._notes.open("a") as notes:
            notes.write(".")


def _run(words: list[str], log: str, first: list[Callable[[], None]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command says otherwise
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["memfast", *words]
    assert "memfast.auditing.run" in sys.modules, "the server could not import memfast"
    from memfast.cli import main

    for each in first:
        each()
    main()
