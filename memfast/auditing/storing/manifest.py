"""The manifest: what an audit's folder was made with. Another run in it must agree."""

import hashlib
import json
from pathlib import Path
from typing import Any

from memfast.auditing.storing.blocks import Blocks
from memfast.errors import InputError
from memfast.files import atomic_write_json, first_difference, prepare_out

NAME, CALIBRATION, FORMAT = "manifest.json", "calibration.safetensors", 1
RESULTS = (
    "statistics.safetensors",
    "scores.parquet",
    "flagged.csv",
    "summary.json",
    "report.html",
    "rejected.jsonl",
    "verified.json",
)


def run_hash(identity: dict[str, Any]) -> str:
    """Identifies everything that the figures depend on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def open_folder(out: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Make `out` an audit's folder for `identity`, or accept it as one for the same.

    Raises InputError, naming the first setting that differs, when it belongs to another audit, and
    when it holds something else. `overwrite` deletes an audit's own files first.
    """
    path = out / NAME
    if path.exists() and overwrite:
        for name in (NAME, CALIBRATION, *RESULTS):
            (out / name).unlink(missing_ok=True)
        for made in (*(out / "blocks").glob("block-*"), *(out / "pictures").glob("*.png")):
            made.unlink()
    if path.exists():
        found = read(out)
        if found["run"] != run_hash(identity):
            raise InputError(
                f"--out {out}: holds another audit: {first_difference(found['identity'], identity)}"
            )
    else:
        prepare_out(out, overwrite)
        _write(out, {"format": FORMAT, "run": run_hash(identity), "identity": identity})
    (out / "blocks").mkdir(exist_ok=True)


def read(out: Path) -> dict[str, Any]:
    """The manifest of an audit's folder. Raises InputError when there is none, or a newer one."""
    try:
        manifest = json.loads((out / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{out}: has no {NAME}; not an audit's folder") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{out / NAME}: cannot be read ({error})") from error
    if manifest.get("format", 0) > FORMAT:
        raise InputError(f"{out / NAME}: format {manifest['format']} is newer than {FORMAT}")
    return manifest


def update(out: Path, **values: Any) -> None:
    """Add to the manifest what was learnt since; nothing of it decides whether a run may resume."""
    _write(out, read(out) | values)


def blocks(out: Path) -> Blocks:
    """The blocks of the audit in `out`."""
    found = read(out)
    identity = found["identity"]
    return Blocks(
        out / "blocks", found["run"], identity["texts"], identity["settings"]["block_size"]
    )


def _write(out: Path, manifest: dict[str, Any]) -> None:
    atomic_write_json(out / NAME, manifest)
