"""Engines, and processes that are killed: the same bits as an undisturbed run in this process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memfast.auditing import audit
from memfast.auditing.looking.settings import Settings
from tests.auditing.conftest import bits


def test_ray_survives_a_killed_actor(
    tiny_folder, lists, settings: Settings, tmp_path: Path, monkeypatch
) -> None:
    ray = pytest.importorskip("ray")
    audit(str(tiny_folder), lists[0], tmp_path / "local", reference=lists[1], settings=settings)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    victim = tmp_path / "killed"

    class Suicidal:
        """An actor; the first to get block 2 dies of it."""

        def __init__(self, job):
            from memfast.auditing.engines.ray import Actor  # in its own process, the real one

            self.actor = Actor(job)

        def compute(self, number: int, texts: list[str]):
            if number == 2 and not victim.exists():
                victim.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return self.actor.compute(number, texts)

    monkeypatch.setattr("memfast.auditing.engines.ray.Actor", Suicidal)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        audit(
            str(tiny_folder),
            lists[0],
            tmp_path / "ray",
            reference=lists[1],
            settings=settings,
            engine="ray",
            workers=2,
        )
    finally:
        ray.shutdown()
    assert victim.exists()
    assert bits(tmp_path / "ray") == bits(tmp_path / "local")


def test_kill_9_loses_nothing(tiny_folder, lists, tmp_path: Path) -> None:
    """A process killed while it computes, then the same command again."""
    command = [sys.executable, "-m", "memfast", "audit", str(tiny_folder)]
    command += ["--prompts", str(lists[0]), "--reference", str(lists[1]), "--threads", "1"]
    command += ["--block-size", "1", "--unit", "4", "--noises", "2"]
    out = tmp_path / "killed"
    blocks = out / "blocks"
    with subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not (blocks / "block-000001.safetensors").exists():
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in blocks.glob("block-*")}
    assert 2 <= len(finished) < 20
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    for name, written in finished.items():
        assert (blocks / name).stat().st_mtime_ns == written
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    assert bits(out) == bits(tmp_path / "whole")
