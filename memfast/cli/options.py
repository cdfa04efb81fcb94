"""Options that several commands share, each said once."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, get_type_hints

import typer

from memfast.errors import InputError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

DTYPES = ("float32", "float16", "bfloat16")
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
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, …")]
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
Padding = Annotated[
    bool, typer.Option("--padding", help="Count the text's padding rows too, where there are any.")
]


class Request(TypedDict):
    """How the pipeline is run, where not as its own call does (memfast.pipelines.schedule)."""

    num_inference_steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the schedule (the pipeline's own).")
    ]
    guidance_scale: Annotated[
        float | None, typer.Option(help="Guidance scale (the pipeline's own).")
    ]
    true_guidance_scale: Annotated[
        float | None, typer.Option(help="Beside an embedded one (Flux.1): 1, none.")
    ]
    height: Annotated[int | None, typer.Option(min=1, help="Pixels (the pipeline's own).")]
    width: Annotated[int | None, typer.Option(min=1, help="Pixels (the pipeline's own).")]
    num_frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of a video (the pipeline's own).")
    ]


def with_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose `**request` are the options of Request."""
    asked = get_type_hints(Request, include_extras=True)
    own = [p for p in signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        Parameter(n, Parameter.KEYWORD_ONLY, default=None, annotation=t) for n, t in asked.items()
    ]
    command.__signature__ = signature(command).replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ |= asked
    return command


def open_pipeline(
    model: str, *, device: str = "cpu", dtype: str = "float32", attention: str = "auto"
) -> "DiffusionPipeline":
    """The pipeline that MODEL names, with the attention kernel asked for."""
    from memfast.pipelines.attention import set_attention
    from memfast.pipelines.drivers.table import as_sibling
    from memfast.pipelines.loading import load_pipeline

    pipeline = load_pipeline(model, dtype=torch_dtype(dtype), device=torch_device(device))
    set_attention(pipeline, attention)
    if (note := as_sibling(pipeline)) is not None:
        typer.echo(f"note: {note}", err=True)
    return pipeline


def torch_dtype(name: str) -> "torch.dtype":
    """The torch dtype of that name."""
    import torch

    if name not in DTYPES:
        raise InputError(f"--dtype {name}: must be one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def torch_device(name: str) -> "torch.device":
    """The device of that name; raises InputError if this machine has none such."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: cannot be used here ({reason})") from error
    return torch.device(name)


def check_file(path: Path, overwrite: bool) -> Path:
    """`path` as a file that may be written.

    Raises InputError if it exists (unless `overwrite`) or its folder does not.
    """
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; name a file")
    from memfast.cli.console import summary_beside

    for each in (path, summary_beside(path)):
        if each.exists() and not overwrite:
            raise InputError(f"--out {path}: {each} exists; name another or pass --overwrite")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}")
    return path
