"""Imports go down only, and what must stay light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import networkx
import pytest

from memfast import __all__ as PUBLIC

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"errors", "files", "limits", "processes", "progress", "prompts", "version"},
    {"memory", "overlap", "precision", "scores", "selection", "statistics"},
    {"blocks", "images"},
    {"pipelines"},
    {"observing", "planning"},
    {"choosing"},
    {"removing"},
    {"sharing"},
    {"measuring"},
    {"attacks"},
    {"auditing", "evaluation", "repairing"},
    {"guarding"},
    {"report"},
    {"demo"},
    {"cli"},
)
PURE = 1  # up to this floor nothing knows diffusers; its rooms may import each other
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted((ROOT / "memfast").rglob("*.py"))
KERNELS = sorted((ROOT / "kernels" / "torch-ext" / "memfast_kernels").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "memfast" and len(parts) > 1 and parts[1] in FLOOR_OF else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(ROOT / "memfast").with_suffix("").parts[0]
    if room in ("__init__", "__main__"):
        return
    for module in imported(path):
        other = room_of(module)
        if other is not None:
            below = FLOOR_OF[other] < FLOOR_OF[room]
            beside = other == room or FLOOR_OF[other] == FLOOR_OF[room] <= PURE
            assert below or beside, f"{room} imports {module}"
        assert module.removeprefix("memfast.") not in PUBLIC, f"{room} climbs to memfast"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_floors_know_no_diffusers(path: Path) -> None:
    room = path.relative_to(ROOT / "memfast").with_suffix("").parts[0]
    if FLOOR_OF.get(room, 99) <= PURE:
        roots = {module.split(".")[0] for module in imported(path)}
        assert not roots & {"diffusers", "transformers", "PIL"}


def test_no_circles() -> None:
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in SOURCES
    }
    graph = networkx.DiGraph(
        (name, other)
        for name, path in modules.items()
        for found in imported(path)
        for other in (found if found in modules else found.rpartition(".")[0],)
        if other in modules and other not in (name, "memfast")
    )
    assert list(networkx.simple_cycles(graph)) == []


@pytest.mark.parametrize("folder", sorted({p.parent for p in SOURCES}), ids=lambda p: p.name)
def test_rooms_are_small(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= 12


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.name)
def test_kernels_stand_alone(path: Path) -> None:
    roots = {module.split(".")[0] for module in imported(path)}
    assert not roots & {"memfast", "diffusers", "transformers", "numpy"}


def test_block_paths_are_named_in_one_place() -> None:
    strings = [
        path
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "ff.net" in node.value
    ]
    assert {p.parent.name if p.parent.name == "families" else p.stem for p in strings} <= {
        "families"
    }


def test_no_init_in_kernels() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("module", ["memfast", "memfast.prompts", "memfast.cli"])
def test_import_is_light(module: str) -> None:
    heavy = ("torch", "diffusers", "pandas")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES + KERNELS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_small(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 300 or "long because" in "\n".join(lines[:12])
