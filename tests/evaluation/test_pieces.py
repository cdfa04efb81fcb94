"""Pieces of an evaluation: kept, gone on with, refused, and computed by other processes."""

import os
import signal
from pathlib import Path

import pytest

from memfast.errors import InputError
from memfast.evaluation import pieces
from memfast.evaluation.run import evaluate
from tests.support.planted import SCHEDULE

pytestmark = pytest.mark.usefixtures("one_thread")  # as workers have: others may round otherwise
METRICS = ("l2_ratio", "ssim")


@pytest.fixture
def run(tiny_pipeline, memorized_set, reference_set):
    def evaluated(folder: Path | None = None, **changed):
        arguments = {"repeats": 2, "seeds": 1, "methods": ("random-words",), **changed}
        return evaluate(
            tiny_pipeline,
            memorized_set,
            reference_set,
            **SCHEDULE,
            metrics=METRICS,
            features=None,
            folder=folder,
            **arguments,
        )

    return evaluated


def figures(result) -> str:
    """All that an evaluation found, but for seconds; NaN equals NaN."""
    return str([row.as_dict() | {"seconds": 0} for row in result.rows])


def test_pieces_that_are_there_are_not_computed_again(run, tmp_path, monkeypatch):
    whole = run(tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert names == ["1-original.pt", "1-random-words.pt", "2-original.pt", "2-random-words.pt"]
    (tmp_path / "2-random-words.pt").write_bytes(b"cut off")
    (tmp_path / "2-original.pt").unlink()
    computed = []
    measure = pieces.measure

    def noted(trial, method, *others):
        computed.append((trial.number, method.name))
        return measure(trial, method, *others)

    monkeypatch.setattr(pieces, "measure", noted)
    assert figures(run(tmp_path)) == figures(whole)
    assert computed == [(1, "original"), (1, "random-words")]


def test_other_settings_are_refused_or_replace(run, tmp_path):
    run(tmp_path, methods=(), repeats=1)
    with pytest.raises(InputError, match=r"of other settings: seed was 0, now 1; name another"):
        run(tmp_path, methods=(), repeats=1, seed=1)
    run(tmp_path, methods=(), repeats=1, seed=1, overwrite=True)
    with pytest.raises(InputError, match="seed was 1, now 0"):
        run(tmp_path, methods=(), repeats=1)


def test_other_processes_find_the_same(run):
    assert figures(run(workers=2)) == figures(run())


def test_a_killed_worker_is_told_and_nothing_is_lost(run, tmp_path, monkeypatch):
    compute = pieces.Pieces.compute

    def fatal(self, number, place):
        if place is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        compute(self, number, place)

    monkeypatch.setattr(pieces.Pieces, "compute", fatal)
    with pytest.raises(InputError, match="a worker was killed"):
        run(tmp_path, workers=2)
    kept = {path.name for path in tmp_path.glob("*.pt")}
    assert kept
    assert kept <= {"1-original.pt", "2-original.pt"}
    monkeypatch.setattr(pieces.Pieces, "compute", compute)
    assert figures(run(tmp_path)) == figures(run())
