"""The documents: the notebook runs, the site builds, the API page names every public name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memfast
from memfast.cli.proving.demo import copy_lists
from memfast.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs" / "first-hour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    told = [output["data"]["text/plain"] for output in outputs if "data" in output]
    assert any("of the parameters are gone" in text for text in told)


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads((ROOT / "docs" / "first-hour.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_the_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "read_prompts" in (tmp_path / "api" / "index.html").read_text()


def test_the_api_page_names_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    named = re.findall(r"^::: memfast\.[\w.]*?(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(set(memfast.__all__) - {"__version__"})


@pytest.mark.soak
def test_the_readme_s_python_runs(tmp_path: Path) -> None:
    """Its snippets, one process each, in a folder that holds nothing but the demo's lists."""
    run = [sys.executable, "-m", "memfast", "demo", "--export", "lists"]
    subprocess.run(run, cwd=tmp_path, check=True)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, check=True)


def test_the_demo_s_lists_are_exported(tmp_path: Path) -> None:
    copy_lists(tmp_path / "lists", overwrite=False)
    prompts = list(memfast.read_prompts(tmp_path / "lists" / "memorized.jsonl"))
    assert len(prompts) == 96
    assert all(Path(prompt.image or "").is_file() for prompt in prompts)
    with pytest.raises(InputError, match="is not empty"):
        copy_lists(tmp_path / "lists", overwrite=False)
