"""Pieces of an evaluation: kept, gone on with, refused, and computed by other processes."""

import os
import signal
from pathlib import Path

import pytest

from memfast.errors import InputError
from memfast.evaluation import piece, pieces
from memfast.evaluation.run import evaluate
from memfast.files import load_tensors, save_tensors
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_another_run(path: Path) -> None:
    tensors, header = load_tensors(path, piece.KIND, piece.FORMAT)
    save_tensors(path, tensors, {**header, "run": "another"})


def of_another_repetition(path: Path) -> None:
    path.write_bytes(path.with_name("1-random-words.safetensors").read_bytes())


def test_pieces_that_are_there_are_not_computed_again(run, tmp_path, monkeypatch, caplog):
    whole = run(tmp_path / "out")
    kept = tmp_path / "out" / pieces.FOLDER
    assert sorted(path.stem for path in kept.iterdir()) == [
        "1-original",
        "1-random-words",
        "2-original",
        "2-random-words",
    ]
    (kept / "2-original.safetensors").unlink()
    computed = []
    measure = pieces.measure

    def noted(trial, method, *others):
        computed.append((trial.number, method.name))
        return measure(trial, method, *others)

    monkeypatch.setattr(pieces, "measure", noted)
    for spoil in (cut, flip, of_another_run, of_another_repetition):
        spoil(kept / "2-random-words.safetensors")
        assert figures(run(tmp_path / "out")) == figures(whole)
        assert "2-random-words.safetensors: " in caplog.text
        assert "the piece is computed again" in caplog.text
        caplog.clear()
    again = (1, "random-words")
    assert computed == [(1, "original"), again, again, again, again]


def test_other_settings_are_refused_or_replace(run, tmp_path):
    run(tmp_path / "out", methods=(), repeats=1)
    with pytest.raises(InputError, match=r"another evaluation: seed was 0, now 1; name another"):
        run(tmp_path / "out", methods=(), repeats=1, seed=1)
    run(tmp_path / "out", methods=(), repeats=1, seed=1, overwrite=True)
    with pytest.raises(InputError, match="seed was 1, now 0"):
        run(tmp_path / "out", methods=(), repeats=1)


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
        run(tmp_path / "out", workers=2)
    kept = {path.stem for path in (tmp_path / "out" / pieces.FOLDER).iterdir()}
    assert kept
    assert kept <= {"1-original", "2-original"}
    monkeypatch.setattr(pieces.Pieces, "compute", compute)
    assert figures(run(tmp_path / "out")) == figures(run())
