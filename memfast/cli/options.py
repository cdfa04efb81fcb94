"""Options that several commands share, each said once."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfast.errors import InputError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from memfast.pipelines.places import Place

DTYPES = ("auto", "float32", "float16", "bfloat16")
ATTENTION = ("auto", "sdpa", "xformers")


def _read_config(ctx, path: Path | None) -> Path | None:
    """Let a YAML file give options that the command line does not (`ctx`: typer's own context)."""
    if path is None:
        return None
    import yaml

    if not path.is_file():
        raise InputError(f"--config {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not YAML ({' '.join(str(error).split())})") from error
    known = {parameter.name for parameter in ctx.command.params}
    if not isinstance(values, Mapping):
        raise InputError(f"--config {path}: must map option names to values")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    if unknown := sorted(set(values) - known):
        legal = ", ".join(sorted(name for name in known if name))
        raise InputError(f"--config {path}: unknown {', '.join(unknown)}; legal: {legal}")
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


Model = Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or 'demo'.")]
OutFile = Annotated[Path, typer.Option("--out", help="File to write; must not exist.")]
OutFolder = Annotated[
    Path, typer.Option("--out", help="Folder to write; must not exist or be empty.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Device = Annotated[str, typer.Option(help="auto (the best there is), cpu, cuda, cuda:1, mps, …")]
Dtype = Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")]
Attention = Annotated[str, typer.Option(help=f"One of {', '.join(ATTENTION)}.")]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file of option values.", callback=_read_config, is_eager=True),
]
Column = Annotated[str | None, typer.Option(help="Column of the prompts, where not obvious.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Prompts a batch.")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Denoising steps, from the noisiest (10, or all of fewer)."),
]
InferenceSteps = Annotated[
    int | None, typer.Option(min=1, help="Length of the schedule (the pipeline's own).")
]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale (the pipeline's own).")]
Padding = Annotated[
    bool, typer.Option("--padding", help="Count the text's padding rows too, where there are any.")
]


def open_pipeline(
    model: str, *, device: str = "cpu", dtype: str = "auto", attention: str = "auto"
) -> "DiffusionPipeline":
    """The pipeline that MODEL names, with the attention kernel asked for; says where it runs."""
    from memfast.pipelines.attention import set_attention
    from memfast.pipelines.drivers.table import as_sibling
    from memfast.pipelines.loading import load_pipeline

    place = where(model, device, dtype)
    pipeline = load_pipeline(model, dtype=place.dtype, device=place.device)
    set_attention(pipeline, attention)
    if (note := as_sibling(pipeline)) is not None:
        typer.echo(f"note: {note}", err=True)
    return pipeline


def where(model: str, device: str, dtype: str) -> "Place":
    """The device and dtype that MODEL is to be run with, said on stderr.

    Raises InputError for what cannot be.
    """
    from memfast.pipelines.places import place_for

    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}")
    place = place_for(model, device, dtype)
    typer.echo(place.why, err=True)
    return place


def schedule(num_inference_steps: int | None, guidance_scale: float | None) -> dict[str, Any]:
    """What of a schedule was asked for; the rest is the pipeline's own."""
    return {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}


def check_file(path: Path, overwrite: bool) -> Path:
    """`path` as a file that may be written.

    Raises InputError if it exists (unless `overwrite`) or its folder does not.
    """
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise InputError(f"--out {path}: exists; name another file or pass --overwrite")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}")
    return path
