"""The folder of an audit: its manifest, the names of its files, and its blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memfast.auditing.storing.blocks import Blocks
from memfast.errors import InputError
from memfast.files import Run, there

NAME, CALIBRATION, KIND, FORMAT = "manifest.json", "calibration.safetensors", "audit", 2
RESULTS = (
    "statistics.safetensors",
    "scores.parquet",
    "flagged.csv",
    "summary.json",
    "provenance.json",
    "report.html",
    "provenance.json",
    "rejected.jsonl",
    "verified.json",
)


@contextmanager
def opened(out: Path, *, shared: bool = False) -> Iterator[Run]:
    """The folder `out` for an audit, locked; shared by the shards of one."""
    with Run.opened(out, KIND, FORMAT, NAME, shared=shared) as run:
        yield run


def of(folder: Path) -> Run:
    """The audit that `folder` holds, to read. Raises InputError where its record is damaged."""
    run = Run(folder, KIND, FORMAT, NAME)
    run.read()
    return run


def unit_of(folder: Path) -> int | None:
    """Prompts a call in the audit that `folder` holds; None where none can be read there."""
    if not (folder / NAME).exists():
        return None
    try:
        return of(folder).read()["identity"]["settings"]["unit"]
    except (InputError, KeyError, TypeError):
        return None


def check_audit(out: Path) -> None:
    """Raise InputError where `out` is no audit's folder."""
    if not (there(out, "folder") / NAME).is_file():
        raise InputError(f"{out}: has no {NAME}; not an audit's folder")


def blocks(run: Run, calibration: str) -> Blocks:
    """The blocks of the audit, made with the calibration of that digest."""
    identity = run.read()["identity"]
    folder, size = run.folder / "blocks", identity["settings"]["block_size"]
    return Blocks(folder, f"{run.hash}/{calibration}", identity["texts"], size)
