"""Prompt lists for the tiny pipeline, and a way to compare what audits wrote."""

import hashlib
import json
from itertools import product
from pathlib import Path

import pytest

from memfast.auditing.looking.settings import Settings

ROUND = ["a", "b", "c", "cat", "dog", "on", "red", "blue"]
TEXTS = [" ".join(words) for words in product(ROUND, ROUND)]  # 64 of them
REFERENCE = TEXTS[40:60]
SAME_BITS = ("scores.parquet", "flagged.csv", "statistics.safetensors", "calibration.safetensors")


@pytest.fixture
def settings() -> Settings:
    """Small blocks and units, so that there are several of each, and both are cut at the end."""
    return Settings(probe="jump", noises=2, block_size=6, unit=4, threads=1)


@pytest.fixture
def lists(tmp_path: Path) -> tuple[Path, Path]:
    """20 prompts, two of them twice; and a reference list."""
    prompts, reference = tmp_path / "prompts.jsonl", tmp_path / "reference.txt"
    rows = [{"prompt": text} for text in [*TEXTS[:20], TEXTS[3], TEXTS[10]]]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reference.write_text("\n".join(REFERENCE))
    return prompts, reference


def bits(out: Path) -> dict[str, str]:
    """The hash of every file whose bits must not depend on how the audit was run."""
    found = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in SAME_BITS}
    for block in sorted((out / "blocks").iterdir()):
        found[block.name] = hashlib.sha256(block.read_bytes()).hexdigest()
    return found
