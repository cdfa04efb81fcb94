"""The wheel, built from the source archive and installed where there is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECK = """
from pathlib import Path
import memfast, memfast_kernels
from memfast.demo import DATA
from memfast.prompts import read_prompts
from memfast.report import Report
assert list(Path(memfast_kernels.__file__).parent.glob("_columns*.so"))
pipeline = memfast.load_pipeline("demo")
for name in ("memorized", "singles", "heldout", "templates"):
    prompts = read_prompts(DATA / f"{name}.jsonl")
    assert all(Path(prompt.image).is_file() for prompt in prompts)
assert len(Report("title").html()) > 5000
print(memfast.__file__, memfast_kernels.__file__, sep="\\n")
"""


def run(*words: object, **how: object) -> str:
    """A command's output; a failure shows all of it."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.soak
def test_a_wheel_from_the_source_archive_works_without_a_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in filter(None, run("git", "ls-files", "-z", cwd=ROOT).split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", source)
    assert list((tmp_path / "dist").glob("memfast-*.tar.gz"))
    (wheel,) = (tmp_path / "dist").glob("memfast-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", wheel)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # no editable of it
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    homes = run(python, "-c", CHECK, cwd=tmp_path, env=clean).split()[-2:]
    assert all(Path(home).is_relative_to(site) for home in homes)
    command = tmp_path / "venv" / "bin" / "memfast"
    assert "unet" in run(command, "families", "demo", cwd=tmp_path, env=clean)
    said = subprocess.run(
        [str(command), "report", "nowhere"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (2, "error: nowhere: no such folder\n")
