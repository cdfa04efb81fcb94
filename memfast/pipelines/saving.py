"""Writing a pipeline folder: whole, or not at all."""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from diffusers import DiffusionPipeline

from memfast.errors import InputError
from memfast.files import check_out


def save_pipeline(
    pipeline: DiffusionPipeline,
    folder: Path,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
    **how: Any,
) -> None:
    """Write a pipeline folder: whole, or not at all.

    `finish` may add to the unfinished folder; `how` goes to `save_pretrained` (variant,
    max_shard_size). With `overwrite`, an older pipeline folder is replaced. Raises InputError for
    a folder that holds anything else, or something without `overwrite`.
    """
    check_out(folder, overwrite)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "model_index.json").is_file():
        raise InputError(f"--out {folder}: holds something that is not a pipeline; name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unfinished = Path(temporary) / "pipeline"
        pipeline.save_pretrained(unfinished, **how)
        if finish is not None:
            finish(unfinished)
        if folder.exists():
            rmtree(folder)
        unfinished.rename(folder)
