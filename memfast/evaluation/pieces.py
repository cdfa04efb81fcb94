"""An evaluation in pieces: a repetition of one method and its controls is computed once, kept on
disk until the report is written, and may be computed by another process.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor

from memfast.errors import InputError, writing
from memfast.evaluation.mitigations import Mitigation
from memfast.evaluation.piece import Piece
from memfast.evaluation.protocol import ORIGINAL, Bench, Outcome, Trial, controls, measure
from memfast.files import Run, check_out, sweep, unfinished
from memfast.processes.stopping import keeping
from memfast.processes.workers import Tether
from memfast.progress import Stage

KIND, FORMAT, RECORD, FOLDER = "evaluation", 2, "evaluation.json", "unfinished"
LAST = "summary.json"  # of the results: where it is, the pieces are spent
Task = tuple[int, int | None]  # a repetition, and the place of a method; None is the original
_log = logging.getLogger("memfast")


@dataclass(frozen=True)
class Pieces:
    """What there is to compute, the folder that holds what is done, and the hash of the run."""

    bench: Bench
    methods: Sequence[Mitigation]
    folder: Path
    run: str

    def compute(self, number: int, place: int | None) -> Piece:
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
            method, original = self.methods[place], self.compute(number, None).made
            treated = method.apply(trial.setting)
            measure(trial, method, outcomes, original, treated)
            for control in controls(trial, method, treated):
                measure(trial, control, outcomes, original)
        piece = Piece(outcomes, made)
        name = self.name(number, place)
        piece.save(self.folder / name, f"{self.run}/{name}")
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
                for name, outcome in self.compute(number, place).outcomes.items():
                    if name in found:
                        found[name].extend(outcome)
                    else:
                        found[name] = outcome
        return found

    def name(self, number: int, place: int | None) -> str:
        """The name of a piece in the evaluation's folder."""
        method = ORIGINAL.name if place is None else self.methods[place].name
        return f"{FOLDER}/{number + 1}-{method}.safetensors"

    @property
    def names(self) -> list[str]:
        """Of all pieces."""
        places = (None, *range(len(self.methods)))
        return [self.name(n, place) for n in range(self.bench.repeats) for place in places]

    @property
    def written(self) -> int:
        """How many of the pieces are there."""
        return sum((self.folder / name).exists() for name in self.names)

    def _read(self, number: int, place: int | None) -> Piece | None:
        """A piece; None, which is logged, where there is none that can be used."""
        name = self.name(number, place)
        if not (self.folder / name).exists():
            return None
        try:
            return Piece.load(self.folder / name, f"{self.run}/{name}")
        except InputError as error:
            _log.warning("%s; the piece is computed again", error)
            return None


def run(
    bench: Bench,
    methods: Sequence[Mitigation],
    stage: Stage,
    identity: Mapping[str, Any],
    folder: Path | Run | None = None,
    overwrite: bool = False,
    workers: int = 1,
) -> tuple[dict[str, Outcome], list[str]]:
    """Every method and its controls: {name: outcome}, the original first; the names of the pieces.

    folder: where pieces are kept; another run in it computes what is missing. workers: processes
    of one core each, or 1 for this one with all its threads. Raises InputError for a folder with
    pieces of another `identity`, and when a worker is killed; what was done is kept.
    """
    if workers > 1 and bench.driver.device.type != "cpu":
        raise InputError("workers: more than one needs --device cpu")
    with ExitStack() as stack:
        place = folder or stack.enter_context(_passing())
        opened = place if isinstance(place, Run) else stack.enter_context(evaluation_in(place))
        opened.begin(identity, overwrite)
        pieces = Pieces(bench, methods, opened.folder, opened.hash)
        opened.ledger.add(*pieces.names)
        with writing(opened.folder):
            (opened.folder / FOLDER).mkdir(exist_ok=True)
        total = bench.repeats * (1 + len(methods))
        with keeping(lambda: f"{pieces.written} of {total} pieces"):
            compute_all(pieces, workers, stage("evaluating", total))
        return pieces.outcomes(), pieces.names


@contextmanager
def evaluation_in(folder: Path, overwrite: bool = True) -> Iterator[Run]:
    """An evaluation's folder, locked. Raises InputError for a finished one unless `overwrite`."""
    with Run.opened(folder, KIND, FORMAT, RECORD) as opened:
        if (folder / LAST).exists() and not overwrite:
            opened.ledger.forget(n for n in opened.ledger.names() if n.startswith(f"{FOLDER}/"))
            check_out(folder)
        yield opened


@contextmanager
def _passing() -> Iterator[Path]:
    """A folder for a run that keeps nothing."""
    system = Path(gettempdir())
    sweep(system)
    with unfinished(system, a_folder=True) as folder:
        yield folder


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
