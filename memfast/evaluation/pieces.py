"""An evaluation in pieces: a repetition of one method and its controls is computed once, kept on
disk until the report is written, and may be computed by another process.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from memfast.errors import InputError
from memfast.evaluation.mitigations import Mitigation
from memfast.evaluation.protocol import ORIGINAL, Bench, Outcome, Trial, controls, measure
from memfast.files import atomic_write, atomic_write_json, first_difference, prepare_out
from memfast.progress import Stage
from memfast.workers import Tether

IDENTITY = "evaluation.json"
Task = tuple[int, int | None]  # a repetition, and the place of a method; None is the original


@dataclass(frozen=True)
class Pieces:
    """What there is to compute, and the folder that holds what is done."""

    bench: Bench
    methods: Sequence[Mitigation]
    folder: Path

    def compute(self, number: int, place: int | None) -> dict[str, Any]:
        """One repetition of the original (None), or of the method at this place and its controls:
        read where it was computed before, or else on disk afterwards."""
        if found := self._read(number, place):
            return found
        trial = Trial(self.bench, number)
        outcomes: dict[str, Outcome] = {}
        made: Mapping[str, Tensor] = {}
        if place is None:
            made = measure(trial, ORIGINAL, outcomes, None)
        else:
            method, original = self.methods[place], self.compute(number, None)["made"]
            treated = method.apply(trial.setting)
            measure(trial, method, outcomes, original, treated)
            for control in controls(trial, method, treated):
                measure(trial, control, outcomes, original)
        piece = {"outcomes": {name: vars(o) for name, o in outcomes.items()}, "made": dict(made)}
        atomic_write(self._path(number, place), lambda temporary: torch.save(piece, temporary))
        return piece

    def of(self, number: int) -> list[Task]:
        """The methods of one repetition, those that take longest first."""
        methods = self.methods
        order = sorted(range(len(methods)), key=lambda place: methods[place].lives_in != "weights")
        return [(number, place) for place in order]

    def outcomes(self) -> dict[str, Outcome]:
        """All repetitions together: {name: outcome}, the original first."""
        found: dict[str, Outcome] = {}
        for number in range(self.bench.repeats):
            for place in (None, *range(len(self.methods))):
                for name, fields in self.compute(number, place)["outcomes"].items():
                    outcome = Outcome(**fields)
                    if name in found:
                        found[name].extend(outcome)
                    else:
                        found[name] = outcome
        return found

    def _path(self, number: int, place: int | None) -> Path:
        name = ORIGINAL.name if place is None else self.methods[place].name
        return self.folder / f"{number + 1}-{name}.pt"

    def _read(self, number: int, place: int | None) -> dict[str, Any]:
        """A piece, empty where there is none, or not a whole one."""
        try:
            return torch.load(self._path(number, place), weights_only=True)
        except (FileNotFoundError, EOFError, RuntimeError, UnpicklingError):
            return {}


def run(
    bench: Bench,
    methods: Sequence[Mitigation],
    stage: Stage,
    identity: Mapping[str, Any],
    folder: Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
) -> dict[str, Outcome]:
    """Every method and its controls: {name: outcome}, the original first.

    folder: where pieces are kept; another run in it computes what is missing. workers: processes
    of one core each, or 1 for this one with all its threads. Raises InputError for a folder with
    pieces of another `identity`, and when a worker is killed; what was done is kept.
    """
    if workers > 1 and bench.driver.device.type != "cpu":
        raise InputError("workers: more than one needs --device cpu")
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory()))
        open_folder(place, identity, overwrite)
        pieces = Pieces(bench, methods, place)
        total = bench.repeats * (1 + len(methods))
        compute_all(pieces, workers, stage("evaluating", total))
        return pieces.outcomes()


def open_folder(folder: Path, identity: Mapping[str, Any], overwrite: bool) -> None:
    """Make `folder` one for the pieces of `identity`, or accept it as one for the same."""
    path, now = folder / IDENTITY, json.loads(json.dumps(identity))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == now:
        return
    if found is not None and not overwrite:
        raise InputError(
            f"{folder}: an unfinished evaluation of other settings: "
            f"{first_difference(found, now)}; name another --out or pass --overwrite"
        )
    prepare_out(folder, overwrite=True)
    for piece in folder.glob("*.pt"):
        piece.unlink()
    atomic_write_json(path, now)


def compute_all(pieces: Pieces, workers: int, advance: Callable[[int], None]) -> None:
    """Compute the pieces, here or in so many processes; a repetition begins with the original."""
    originals = [(number, None) for number in range(pieces.bench.repeats)]
    if workers == 1:
        for task in [*originals, *(task for number, _ in originals for task in pieces.of(number))]:
            pieces.compute(*task)
            advance(1)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it complains of the fork
    tether, most = Tether(), pieces.bench.repeats * max(1, len(pieces.methods))
    fork = get_context("fork")
    pool = ProcessPoolExecutor(min(workers, most), fork, _begin, (pieces, tether))
    try:
        running = {pool.submit(_compute, task) for task in originals}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for number, place in (future.result() for future in done):
                advance(1)
                if place is None:
                    running |= {pool.submit(_compute, task) for task in pieces.of(number)}
        pool.shutdown()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker was killed (out of memory?); what is done is kept: "
            "run the same command again, with fewer --workers"
        ) from error
    finally:
        tether.cut()
        pool.shutdown(cancel_futures=True)


_pieces: Pieces  # of a worker process: they are too large to send


def _begin(pieces: Pieces, tether: Tether) -> None:
    global _pieces
    _pieces = pieces
    tether.tie()
    torch.set_num_threads(1)  # OpenMP's other threads did not survive the fork


def _compute(task: Task) -> Task:
    _pieces.compute(*task)
    return task
