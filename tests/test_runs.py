"""A run's folder: claimed by one, locked while it works, and nobody else's file is ever gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memfast.errors import InputError
from memfast.files import Run

IDENTITY = {"seed": 0, "path": (0.5, 0.1), "rate": float("nan"), "of": {"a": 1}}


def opened(folder: Path, **how: bool):
    return Run.opened(folder, "audit", 1, "run.json", **how)


def begun(folder: Path, identity: dict = IDENTITY, overwrite: bool = False) -> str:
    with opened(folder) as run:
        run.begin(identity, overwrite)
        return run.hash


def test_nothing_is_written_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(KeyError), opened(tmp_path / "out"):
        raise KeyError
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with opened(tmp_path / "mine"):
        pass
    assert os.listdir(tmp_path) == ["mine"]  # an empty folder that was there stays


def test_the_same_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert begun(out) == begun(out) == begun(out, overwrite=True)
    with pytest.raises(InputError, match="holds another audit: seed was 0, now 1; name another"):
        begun(out, IDENTITY | {"seed": 1})
    with pytest.raises(InputError, match="a was 1, now 2"):
        begun(out, IDENTITY | {"of": {"a": 2}})
    assert begun(out, IDENTITY | {"seed": 1}, overwrite=True) != begun(tmp_path / "other")


def test_overwriting_deletes_what_the_run_noted_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun(out)
    with opened(out) as run:
        run.ledger.add("blocks/a", "b")
        (out / "blocks").mkdir()
        for name in ("blocks/a", "b", "blocks/mine", "mine"):
            (out / name).write_text(name)
    begun(out, {"seed": 1}, overwrite=True)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {".memfast", "run.json", "blocks/mine", "mine"}


def test_a_folder_of_others_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "calibration.safetensors").write_text("of an older run")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds calibration\.safetensors, which memfast did"):
            begun(tmp_path, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["calibration.safetensors"]


def test_an_edited_record_is_found_and_replaced_on_demand(tmp_path: Path) -> None:
    begun(tmp_path / "out")
    path = tmp_path / "out" / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match=r"run\.json: damaged or edited"):
        begun(tmp_path / "out", {"seed": 1})
    begun(tmp_path / "out", {"seed": 1}, overwrite=True)


def test_two_at_once_are_told(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "out"),
        pytest.raises(InputError, match=f"process {os.getpid()} on .* works there"),
        opened(tmp_path / "out"),
    ):
        pass


def test_of_many_that_share_a_new_folder_one_decides(tmp_path: Path) -> None:
    """Shards of different runs begin together: only those of one run stay."""
    code = """
import sys
from memfast.errors import InputError
from memfast.files import Run
with Run.opened(sys.argv[1], "audit", 1, "run.json", shared=True) as run:
    sys.stdin.readline()
    try:
        run.begin({"seed": int(sys.argv[2])})
        print(run.read()["identity"]["seed"] == int(sys.argv[2]))
    except InputError as error:
        print("holds another audit" in str(error) and "refused")
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([*command, str(seed)], stdin=pipe, stdout=pipe, text=True)
        for seed in (0, 0, 1, 1, 2)
    ]
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    said = [each.communicate()[0].strip() for each in started]
    assert set(said) <= {"True", "refused"}
    assert (
        len({seed for seed, word in zip((0, 0, 1, 1, 2), said, strict=True) if word == "True"}) == 1
    )


def test_results_stand_together_and_spare_what_is_not_theirs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with opened(out) as run:
        run.begin(IDENTITY)
        for text in ("first", "second"):
            with run.results() as new:
                (new / "pictures").mkdir()
                (new / "pictures" / "a.png").write_text(text)
        assert (out / "pictures" / "a.png").read_text() == "second"
        with pytest.raises(FileNotFoundError), run.results() as new:
            (new / "nowhere" / "a.png").write_text("third")
        assert (out / "pictures" / "a.png").read_text() == "second"
        (out / "summary.json").write_text("mine")
        with (
            pytest.raises(InputError, match=r"summary\.json: is there, and memfast did not write"),
            run.results() as new,
        ):
            (new / "summary.json").write_text("theirs")
        assert (out / "summary.json").read_text() == "mine"
        (out / "pictures" / "mine.png").write_text("mine")
        run.ledger.forget(["pictures/a.png", "summary.json"])
        assert (out / "summary.json").read_text() == "mine"
        assert os.listdir(out / "pictures") == ["mine.png"]
        assert "pictures/a.png" not in run.ledger.names()


def test_results_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun(out)
    (out / ".memfast-0123abcd.tmp" / "pictures").mkdir(parents=True)
    (out / ".memfast-0123abcd.tmp" / "pictures" / "a.png").write_text("half")
    (out / ".memfast-mine.tmp").mkdir()
    begun(out)
    assert sorted(os.listdir(out)) == [".memfast", ".memfast-mine.tmp", "run.json"]
