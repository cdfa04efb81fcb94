"""Ending early, whoever asks for it: what is unfinished is cleaned up, what is kept is told."""

import atexit
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # those that the system has
AGAIN = 0.2  # seconds


class Stopped(BaseException):
    """The process was asked to end; no error, so nothing that handles errors takes it for one."""


class Asked:
    """Whether the process was asked to end. Where a library swallows the exception that says so
    (nobody holds it any more), it is raised again."""

    def __init__(self) -> None:
        self.now = False
        self._raised: Callable[[], object] = lambda: None

    def stop(self, *_: Any) -> None:
        """Raise Stopped, unless one that was raised is still on its way."""
        self.now = True
        if self._raised() is None:
            stopped = Stopped()
            self._raised = weakref.ref(stopped)
            try:
                raise stopped
            finally:
                del stopped  # else its own traceback holds it


@contextmanager
def stopped_by_signals() -> Iterator[Asked]:
    """The first signal that asks the process to end raises Stopped here, wherever it is; another
    ends it at once."""
    asked = Asked()
    kinds = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]

    def stop(number: int, frame: Any) -> None:
        for kind in kinds:
            signal.signal(kind, signal.SIG_DFL)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, asked.stop)
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        asked.stop()

    before = {kind: signal.getsignal(kind) for kind in kinds}
    for kind, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup has it
            signal.signal(kind, stop)
    tell = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if lost.exc_type is Stopped else tell(lost)
    try:
        yield asked
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = tell
        for kind, handler in before.items():
            signal.signal(kind, handler)
        atexit.register(_ignore, kinds)  # what is done is done: leaving takes torch a second


def _ignore(kinds: list[int]) -> None:
    for kind in kinds:
        signal.signal(kind, signal.SIG_IGN)


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """Whoever stops what runs within is told what is `kept`, as in "3 of 8 blocks"."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        stop.args = (f"run the same command to go on: {kept()} are kept",)
        raise
