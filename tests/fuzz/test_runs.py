"""What runs keep on disk, damaged: manifests, blocks, calibrations, pieces, checkpoints."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from memfast_kernels import Moments
from torch import nn

from memfast.auditing.calibration import Calibration
from memfast.auditing.looking.scores import Baseline
from memfast.auditing.looking.worker import Block
from memfast.auditing.storing import manifest
from memfast.auditing.storing.blocks import Blocks
from memfast.evaluation.piece import Piece
from memfast.evaluation.protocol import Outcome
from memfast.repairing.teaching.checkpoint import load_checkpoint, save_checkpoint
from tests.fuzz.budget import damaged, fuzzed, refused

IDENTITY = {"texts": 3, "settings": {"block_size": 3}}


def audit(folder: Path) -> Any:
    """The audit in `folder`, begun or read again."""
    with manifest.opened(folder) as run:
        run.begin(IDENTITY)
        return run.read()["identity"]


def blocks(path: Path) -> Blocks:
    return Blocks(path.parent, "run", 3, 3)


def write_block(path: Path) -> None:
    moments = {"a.b": Moments.empty(1, 2)}
    scores = torch.arange(6.0, dtype=torch.float64).reshape(3, 1, 2)
    machine = {"device": "cpu"}
    blocks(path).write(0, Block(scores, torch.zeros(3, dtype=torch.bool), moments, machine))


def calibration() -> Calibration:
    numbers = torch.arange(2.0, dtype=torch.float64)
    return Calibration(["norm"], [Baseline(numbers, numbers + 1)], numbers[:, None], ["x"])


def piece() -> Piece:
    outcome = Outcome("original", "", "weights")
    outcome.plain["ssim"] = [torch.ones(2), torch.zeros(2)]
    return Piece({"original": outcome}, {"plain": torch.ones(1, 3, 2, 2)})


def learner() -> tuple[nn.Module, torch.optim.Adam]:
    model = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return model, optimiser


def write_checkpoint(path: Path) -> None:
    save_checkpoint(path, *learner(), {}, {"step": 1, "history": [{"step": 0}], "of": "x"})


WRITERS: dict[str, Any] = {
    "manifest.json": lambda path: audit(path.parent),
    "block-000000.safetensors": write_block,
    "calibration.safetensors": lambda path: calibration().save(path, "run"),
    "1-original.safetensors": lambda path: piece().save(path, "run"),
    "out.repair.safetensors": write_checkpoint,
}
READERS: dict[str, Any] = {
    "manifest.json": lambda path: audit(path.parent),
    "block-000000.safetensors": lambda path: blocks(path).read(0),
    "calibration.safetensors": lambda path: Calibration.load(path, "run"),
    "1-original.safetensors": lambda path: Piece.load(path, "run"),
    "out.repair.safetensors": lambda path: load_checkpoint(path, *learner(), {}, {"of": "x"}),
}


@cache
def whole(name: str) -> dict[str, bytes]:
    """{file: content} of the folder of a run."""
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[name](Path(folder) / name)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def values(name: str, content: bytes) -> str | None:
    """What is read of a file of this content; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        for other, there in whole(name).items():
            (Path(folder) / other).write_bytes(content if other == name else there)
        found = refused(lambda: READERS[name](Path(folder) / name), folder)
        return None if found is None else repr(found)


@fuzzed(150, name=st.sampled_from(list(WRITERS)), change=st.data())
def test_damaged_files_of_runs(name: str, change: st.DataObject) -> None:
    """The same as was written, or one line: never other numbers."""
    content = whole(name)[name]
    found = values(name, change.draw(damaged(st.just(content))))
    assert found in (None, values(name, content))


@fuzzed(60, content=damaged(st.just(b"memfast audit\nmanifest.json/")))
def test_a_damaged_ledger_of_a_run(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for other, there in whole("manifest.json").items():
            (Path(folder) / other).write_bytes(content if other == ".memfast" else there)
        refused(lambda: audit(Path(folder)), folder)
