"""Parquet and arrow files, read by a process of its own.

A byte changed in such a file can make the library that reads it crash, or ask for any memory: here
that ends the child, which runs under the limit `memory`, and becomes an InputError.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.limits import Limits
from memfast.prompts.sources.rows import Row, Wanted

# The child imports from where this process does, and never from the current folder.
_START = """
import json, sys
request = json.loads(sys.stdin.buffer.readline())
sys.path[:] = request["path"]
from memfast.prompts.sources.columnar_child import serve
serve(request)
"""


def columnar_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """The rows of a .parquet or .arrow file, of the columns that are used alone."""
    request = {"task": "rows", "file": str(path), "column": wanted.column}
    with _child(request, wanted.limits) as child:
        for line in child.stdout:
            match json.loads(line):
                case ["row", number, value]:
                    yield Row(value, number)
                case ["bad", number, reason]:
                    yield Row.bad(reason, number)
                case ["error", message]:
                    raise InputError(message)
                case ["end"]:
                    return
        raise InputError(f"{path}: damaged or too large; {_death(child, wanted.limits)}")


class Images:
    """The images in the rows of a file, from one process that is kept for many of them."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits, self._stack = path, limits, ExitStack()
        request = {"task": "images", "file": str(path)}
        self._child = self._stack.enter_context(_child(request, limits))

    def close(self) -> None:
        """End the process."""
        self._stack.close()

    def __getitem__(self, row: int) -> bytes | str:
        """The bytes, else the path, of the image in `row`, from 1. Raises InputError for none."""
        with suppress(OSError):  # a child that is gone is told of below
            self._child.stdin.write(b"%d\n" % row)
            self._child.stdin.flush()
        match json.loads(self._child.stdout.readline() or "null"):
            case ["bytes", size]:
                content = self._child.stdout.read(size)
                if len(content) == size:
                    return content
            case ["path", place]:
                return place
            case ["error", message]:
                raise InputError(message)
        how = _death(self._child, self._limits)
        raise InputError(f"{self._path}, row {row}: damaged or too large; {how}")


@contextmanager
def _child(request: dict[str, Any], limits: Limits) -> Iterator[Any]:
    """A process that serves `request`; ended with the block."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", _START]
    whole = {**request, "limits": asdict(limits), "path": [p for p in sys.path if p]}
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    plain = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}  # reserves nothing ahead
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none, env=plain) as child:
        try:
            child.stdin.write(json.dumps(whole).encode() + b"\n")  # pyright: ignore[reportOptionalMemberAccess]
            child.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            yield child
        finally:
            child.kill()  # what it still has to say is not wanted


def _death(child: Any, limits: Limits) -> str:
    code = child.wait()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"reading it ended with {how}, within {limits.memory} bytes (limit memory)"
