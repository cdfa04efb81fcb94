"""The package stands alone, and Hugging Face's `kernels` loads it from a checkout."""

import ast
import sys
from pathlib import Path

import memfast_kernels as mk
import pytest
import torch

pytestmark = pytest.mark.cpu_only("reads sources")

ROOT = Path(__file__).parents[2] / "kernels"
SOURCES = sorted((ROOT / "torch-ext" / "memfast_kernels").rglob("*.py"))
ALLOWED = {*sys.stdlib_module_names, "torch", "triton"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_imports_torch_and_triton_alone(path):
    tree = ast.parse(path.read_text())
    absolute = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }
    assert absolute <= ALLOWED


def test_the_folder_shadows_no_package():
    assert not (ROOT / "__init__.py").exists()


def test_every_activation_has_a_device_function():
    source = (ROOT / "torch-ext" / "memfast_kernels" / "triton_backend" / "device.py").read_text()
    for activation in mk.ACTIVATIONS:
        assert f'ACTIVATION == "{activation}"' in source


def test_hugging_face_loads_the_checkout(monkeypatch):
    kernels = pytest.importorskip("kernels.load", reason="Hugging Face's kernels is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = kernels.get_local_kernel(ROOT)
    assert loaded is not mk
    projected = torch.randn(6, 8)
    assert torch.equal(loaded.geglu(projected), mk.geglu(projected))
    assert loaded.geglu(projected, moments=True)[1].count.tolist() == [6]
