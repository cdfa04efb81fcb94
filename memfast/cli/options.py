"""Options that several commands share, each said once."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, get_type_hints

import typer

from memfast.cli.command import with_options
from memfast.errors import InputError, reading, some
from memfast.files import there

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from memfast.cli.places import Place
    from memfast.measuring.index import ImageIndex

DTYPES = ("auto", "float32", "float16", "bfloat16")
ATTENTION = ("auto", "sdpa", "xformers")
LARGEST_CONFIG = 1 << 16  # bytes
MOST_STEPS = 10_000  # of a schedule
MOST_PIXELS = 65_536  # of a side, or frames
MOST_WORKERS = 1_024  # processes, or threads


def _read_config(ctx, path: Path | None) -> Path | None:
    """Let a YAML file give options that the command line does not (`ctx`: typer's own context)."""
    if path is None:
        return None
    place = f"--config {path}"
    values = {str(key).replace("-", "_"): value for key, value in _yaml(path, place).items()}
    known = {parameter.name: parameter for parameter in ctx.command.params}
    if unknown := sorted(set(values) - set(known)):
        legal = ", ".join(sorted(name for name in known if name))
        raise InputError(f"{place}: unknown {some(unknown)}; legal: {legal}")
    for name, value in values.items():
        many = known[name].multiple or known[name].nargs != 1
        single = value if many and isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float) for item in single):
            raise InputError(f"{place}: {name}: must be {'a list of words' if many else 'a value'}")
        values[name] = single if many else value
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


def _yaml(path: Path, place: str) -> dict[Any, Any]:
    """The mapping in a YAML file of at most LARGEST_CONFIG bytes."""
    import yaml

    with reading(place):
        there(path, name=place)
        if path.stat().st_size > LARGEST_CONFIG:
            raise InputError(f"{place}: more than {LARGEST_CONFIG} bytes")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise InputError(f"{place}: must map option names to values")
        return values


def model_there(model: str | None) -> str | None:
    """Refuse the name of a model that is not here and is no hub id, before torch is imported."""
    from memfast.pipelines.opening.naming import find_model

    if model is not None:
        find_model(model)
    return model


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A folder, a hub id, or 'demo'.", callback=model_there),
]
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
Index = Annotated[
    Path | None,
    typer.Option(help="Training images, by `memfast index`: copies of any of them are found."),
]
Weights = Annotated[str | None, typer.Option(help="The file of the index's network, if any.")]
Graphs = Annotated[
    bool, typer.Option("--graphs/--no-graphs", help="Replay passes on CUDA, where that is safe.")
]
Column = Annotated[str | None, typer.Option(help="Column of the prompts, where not obvious.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Prompts a batch.")]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_STEPS, help="Denoising steps, from the noisiest (10, or all of fewer)."
    ),
]
Padding = Annotated[
    bool, typer.Option("--padding", help="Count the text's padding rows too, where there are any.")
]


class Request(TypedDict):
    """How the pipeline is run, where not as its own call does (memfast.pipelines.schedule)."""

    num_inference_steps: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_STEPS, help="Length of the schedule (the pipeline's own)."),
    ]
    guidance_scale: Annotated[
        float | None, typer.Option(help="Guidance scale (the pipeline's own).")
    ]
    true_guidance_scale: Annotated[
        float | None, typer.Option(help="Beside an embedded one (Flux.1): 1, none.")
    ]
    height: Annotated[
        int | None, typer.Option(min=1, max=MOST_PIXELS, help="Pixels (the pipeline's own).")
    ]
    width: Annotated[
        int | None, typer.Option(min=1, max=MOST_PIXELS, help="Pixels (the pipeline's own).")
    ]
    num_frames: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_PIXELS, help="Frames of a video (the pipeline's own)."),
    ]


def with_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose `**request` are the options of Request."""
    return with_options(command, get_type_hints(Request, include_extras=True), None)


def open_pipeline(
    model: str, *, device: str = "cpu", dtype: str = "auto", attention: str = "auto"
) -> "DiffusionPipeline":
    """The pipeline that MODEL names, with the attention kernel asked for; says where it runs."""
    from memfast.pipelines.attention import set_attention
    from memfast.pipelines.drivers.table import as_sibling, check_tells
    from memfast.pipelines.loading import load_pipeline

    place = where(model, device, dtype)
    pipeline = load_pipeline(model, dtype=place.dtype, device=place.device)
    set_attention(pipeline, attention)
    check_tells(pipeline, model)
    if (note := as_sibling(pipeline)) is not None:
        typer.echo(f"note: {note}", err=True)
    return pipeline


def where(model: str, device: str, dtype: str) -> "Place":
    """The device and dtype that MODEL is to be run with, said on stderr.

    Raises InputError for what cannot be.
    """
    from memfast.cli.places import place_for

    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}")
    place = place_for(model, device, dtype)
    typer.echo(place.why, err=True)
    return place


def open_index(index: Path | None, weights: str | None) -> "ImageIndex | None":
    """The index of training images that was named. Raises InputError where it cannot be used."""
    if index is None:
        if weights is not None:
            raise InputError(f"--weights {weights}: needs --index")
        return None
    from memfast.measuring.index import ImageIndex

    return ImageIndex.open(index, weights)
