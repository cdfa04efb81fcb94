"""Whatever is killed, old or new is there; nobody else's file is deleted; one works at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from memfast.errors import InputError
from memfast.files import Ledger, folders, locked, replace_folder, save_tensors, sweep, try_out
from memfast.files.folders import recover_folder

WRITE = """
import os, sys
from pathlib import Path
from memfast.files import atomic, folders
from memfast.files import atomic_write_text, replace_folder

path, fatal, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
count = 0

def dying(call):
    def wrapped(*arguments, **named):
        global count
        if count == fatal:
            os._exit(9)
        count += 1
        result = call(*arguments, **named)
        if count == fatal:
            os._exit(9)
        count += 1
        return result
    return wrapped

for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync", "link", "scandir", "open"):
    setattr(os, name, dying(getattr(os, name)))
folders._exchange = dying(folders._exchange) if exchange else lambda first, second: False

def make(folder):
    folder.mkdir()
    (folder / "weights").write_text("new")
    (folder / "part").mkdir()
    (folder / "part" / "more").write_text("new")

if sys.argv[4] == "folder":
    spent = {path.with_name("kept.safetensors"): "state"}
    replace_folder(path, make, "model", overwrite=True, spent=spent)
else:
    atomic_write_text(path, "new")
print(count)
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WRITE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def keep(path: Path, kind: str = "state") -> Path:
    save_tensors(path, {"a": torch.ones(1)}, {"kind": kind, "format": 1})
    return path


def make_old(folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_text("old")


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_folder_replaced_by_a_process_killed_anywhere(tmp_path: Path, how: str) -> None:
    """Before and after some of the steps that it takes in the file system."""
    kill_everywhere(tmp_path, how, 10)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_folder_replaced_by_a_process_killed_at_every_step(tmp_path: Path, how: str) -> None:
    kill_everywhere(tmp_path, how, 10_000)


def kill_everywhere(tmp_path: Path, how: str, kills: int) -> None:
    path = tmp_path / "count" / "model"
    replace_folder(path, make_old, "model")
    steps = int(run(path, -1, how, "folder").stdout)
    for fatal in range(0, steps, max(1, steps // kills)):
        path = tmp_path / str(fatal) / "model"
        replace_folder(path, make_old, "model")
        kept = keep(path.with_name("kept.safetensors"))
        assert run(path, fatal, how, "folder").returncode == 9
        if how == "exchange":
            assert path.is_dir()  # whole at every moment
        recover_folder(path)
        state = (path / "weights").read_text()
        assert Ledger(path, "model").foreign() == []
        assert (path / "part" / "more").exists() == (state == "new")
        assert kept.exists() == (state == "old")
        assert run(path, -1, how, "folder").returncode == 0
        assert (path / "part" / "more").read_text() == "new"
        assert os.listdir(path.parent) == ["model"]


def test_between_two_renames_the_old_folder_comes_back(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model"
    replace_folder(path, make_old, "model")
    monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    rename = os.rename

    def failing(source, target) -> None:
        if str(source).endswith("new"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(path, lambda new: new.mkdir(), "model", overwrite=True)
    assert (path / "weights").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_file_replaced_by_a_process_killed_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    for fatal in range(0, int(run(path, -1, "", "file").stdout), 2):
        path.write_text("old")
        assert run(path, fatal, "", "file").returncode == 9
        assert path.read_text() in ("old", "new")
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def test_only_our_own_folders_are_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="was not made by memfast"):
        replace_folder(theirs, make_old, "model", overwrite=True)
    ours = tmp_path / "ours"
    replace_folder(ours, make_old, "model")
    with pytest.raises(InputError, match="--overwrite"):
        replace_folder(ours, make_old, "model")
    with pytest.raises(InputError, match="'model' of memfast, not 'audit'"):
        replace_folder(ours, make_old, "audit", overwrite=True)
    (ours / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        replace_folder(ours, make_old, "model", overwrite=True)
    (ours / "notes.txt").unlink()
    replace_folder(ours, make_old, "model", overwrite=True)
    (tmp_path / "empty").mkdir()
    replace_folder(tmp_path / "empty", make_old, "model")
    (tmp_path / "link").symlink_to(ours)
    replace_folder(tmp_path / "link", make_old, "model", overwrite=True)
    assert (tmp_path / "link").is_symlink()


def test_what_a_failing_write_leaves(tmp_path: Path) -> None:
    def failing(new: Path) -> None:
        new.mkdir()
        (new / "half").touch()
        raise RuntimeError("stop")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="stop"):
            replace_folder(tmp_path / "model", failing, "model", overwrite=True)
        assert os.listdir(tmp_path) in ([], ["model"])
        replace_folder(tmp_path / "model", make_old, "model", overwrite=True)


def test_only_what_is_spent_and_ours_goes(tmp_path: Path) -> None:
    names = ("state", "of another kind", "folder", "folder of another kind", "worked in", "none")
    state, other, folder, others, worked, none = (tmp_path / name for name in names)
    keep(state)
    keep(other, "subspace")
    for each, kind in ((folder, "kept"), (others, "audit"), (worked, "kept")):
        each.mkdir()
        Ledger(each, kind).claim()
    (folder / ".memfast-0123abcd.tmp").touch()
    spent = {path: "kept" for path in (folder, others, worked, none)}
    spent |= {state: "state", other: "state"}
    out = tmp_path / "out"
    with locked(worked):
        replace_folder(out, make_old, "model", spent=spent)
    left = [other.name, others.name, worked.name, "out"]
    assert sorted(os.listdir(tmp_path)) == sorted(left)


OWN = """
import sys, time
from pathlib import Path
from memfast.files import unfinished
with unfinished(Path(sys.argv[1])), unfinished(Path(sys.argv[1]), a_folder=True) as folder:
    (folder / "part").touch()
    print("made", flush=True)
    time.sleep(60)
"""


def test_what_is_unfinished_is_taken_away_when_its_owner_is_dead(tmp_path: Path) -> None:
    (tmp_path / ".memfast-mine.tmp").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".memfast-0123abcd.tmp").symlink_to("pipe")
    others = sorted(os.listdir(tmp_path))
    command = [sys.executable, "-c", OWN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "made\n"
        sweep(tmp_path)
        assert len(os.listdir(tmp_path)) == len(others) + 2
        owner.kill()
    (tmp_path / ".memfast-0123abcd.lock").touch()
    os.mkfifo(tmp_path / ".memfast-4567cdef.tmp")
    try_out(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == others
    sweep(tmp_path / "none")


def test_a_ledger_deletes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "r[1]"
    folder.mkdir()
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "block-1").write_text("another's")
    ledger = Ledger(folder, "audit")
    ledger.claim()
    ledger.claim()
    ledger.add("block-1", "blocks/block-2")
    (folder / "blocks").mkdir()
    for name in ("block-1", "blocks/block-2", "mine.csv", "blocks/mine"):
        (folder / name).write_text("x")
    assert ledger.foreign() == ["blocks/mine", "mine.csv"]
    with pytest.raises(InputError, match=r"mine\.csv: is there, and memfast did not write it"):
        ledger.add("mine.csv")
    with pytest.raises(InputError, match="not 'evaluation'"):
        Ledger(folder, "evaluation").clear()
    with open(ledger.path, "a") as file:
        file.write("\nmine.csv")  # a line cut short
    ledger.clear()
    assert sorted(p.name for p in folder.rglob("*")) == ["blocks", "mine", "mine.csv"]
    assert (tmp_path / "r1" / "block-1").exists()
    with pytest.raises(InputError, match="which memfast did not write"):
        ledger.claim()


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "link/outside"])
def test_a_ledger_that_was_edited_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("kept")
    folder = tmp_path / "out"
    folder.mkdir()
    ledger = Ledger(folder, "audit")
    ledger.claim()
    (folder / "link").symlink_to(tmp_path)
    with open(ledger.path, "a") as file:
        file.write(f"\n{name}/")
    with pytest.raises(InputError, match="not a file in its folder"):
        ledger.clear()
    assert (tmp_path / "outside").exists()


HOLD = """
import sys, time
from memfast.files import locked
with locked(sys.argv[1], shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, how: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_dies_with_its_owner(tmp_path: Path, how: signal.Signals) -> None:
    with holder(tmp_path, "alone") as owner:
        for shared in (True, False):
            with (
                pytest.raises(InputError, match=f"process {owner.pid} on "),
                locked(tmp_path, shared),
            ):
                pass
        owner.send_signal(how)
        owner.wait()
    with locked(tmp_path):
        assert os.listdir(tmp_path) == [".memfast.lock"]
    assert os.listdir(tmp_path) == []


def test_shards_share_a_lock(tmp_path: Path) -> None:
    with holder(tmp_path, "shared") as other:
        with locked(tmp_path, shared=True):
            pass
        with pytest.raises(InputError, match="another process works there"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_many_processes_take_turns(tmp_path: Path) -> None:
    """Eight processes count to 20 each in one file; no step is lost."""
    code = """
import sys, time
from pathlib import Path
from memfast.errors import InputError
from memfast.files import locked
counter = Path(sys.argv[1]) / "counter"
done = 0
while done < 20:
    try:
        with locked(counter.parent):
            counter.write_text(str(int(counter.read_text()) + 1))
        done += 1
    except InputError:
        time.sleep(0.001)
"""
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command) for _ in range(8)]
    assert [process.wait() for process in started] == [0] * 8
    assert (tmp_path / "counter").read_text() == "160"


def test_a_process_killed_at_random(tmp_path: Path) -> None:
    """Ten kills of a process that replaces one folder without end."""
    path = tmp_path / "model"
    code = """
import sys
from pathlib import Path
from memfast.files import replace_folder
def make(folder):
    folder.mkdir()
    for name in "abcdef":
        (folder / name).write_text(name)
print("ready", flush=True)
while True:
    replace_folder(Path(sys.argv[1]), make, "model", overwrite=True)
"""
    replace_folder(path, make_old, "model")
    for kill in range(10):
        command = [sys.executable, "-c", code, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.013 * kill)
            process.kill()
        recover_folder(path)
        names = sorted(entry.name for entry in path.iterdir())
        assert names in ([".memfast", "weights"], [".memfast", *"abcdef"])


def test_what_was_killed_at_its_first_or_last_moment_is_taken_away(tmp_path: Path) -> None:
    """When nothing was in the work folder yet, or nothing any more."""
    out = tmp_path / "out"
    replace_folder(out, lambda new: new.mkdir(), "model")
    work, lock = folders._work_folder(out)
    os.close(lock)
    other, held = folders._work_folder(tmp_path / "other")
    recover_folder(out)
    assert not work.exists()
    assert other.exists()  # of another output
    os.close(held)
