"""Where a result comes from: written beside it by every command that makes a folder."""

import platform
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from memfast.errors import InputError, one_line
from memfast.files import atomic_write_json, run_hash

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from memfast.prompts import PromptSet
    from memfast.report.pictures import Album

NAME, SUMMARY = "provenance.json", "summary.json"
_given: ContextVar[str] = ContextVar("given", default="")
_call: ContextVar[str] = ContextVar("call", default="")
UNTOLD = {"out", "overwrite", "config", "quiet", "as_json"}  # of a call: no figure rests on them


def write_run(
    folder: Path,
    kind: str,
    summary: Mapping[str, Any],
    models: "Mapping[str, tuple[str, DiffusionPipeline]]",
    prompts: "Mapping[str, PromptSet | Any] | None" = None,
    seed: int | None = None,
    albums: "Iterable[Album]" = (),
) -> None:
    """Write what a run leaves, into a folder that is there: summary.json, pictures where there are
    albums, provenance.json, and the report that follows from these.

    models: by their role, a name and the pipeline. prompts: those that are lists are noted.
    """
    from memfast.report.pictures import keep_pictures

    folder.mkdir(exist_ok=True)
    atomic_write_json(folder / SUMMARY, dict(summary))
    if albums:
        keep_pictures(folder, albums)
    note_provenance(folder, kind, models, prompts, seed)
    add_report(folder)


def add_report(folder: Path) -> None:
    """Write report.html; whatever stops that, the run's results are kept, and a note says so."""
    from memfast.report.stored import write_report

    try:
        write_report(folder)
    except Exception as error:
        told = f"note: no report.html ({one_line(error)}); `memfast report` makes it of the folder"
        typer.echo(told, err=True)


def note_provenance(
    folder: Path,
    kind: str,
    models: "Mapping[str, tuple[str, DiffusionPipeline]] | None" = None,
    prompts: "Mapping[str, PromptSet | Any] | None" = None,
    seed: int | None = None,
) -> None:
    """Write provenance.json: kind of run, command, date, versions; and where they are given, the
    device, each model's name and fingerprint, each list's digest, and the seed."""
    from memfast.pipelines.identity import versions
    from memfast.prompts import PromptSet

    found: dict[str, Any] = {"kind": kind, "command": _given.get(), "seed": seed}
    found["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found["versions"] = {**versions(), "python": platform.python_version()}
    found["prompts"] = {
        role: {"name": Path(each.name).name, "prompts": len(each), "digest": each.digest}
        for role, each in (prompts or {}).items()
        if isinstance(each, PromptSet)
    }
    if models:
        found |= _of_models(models)
    atomic_write_json(folder / NAME, found)


def command_line(ctx: Any) -> str:
    """The command with every value that is not a default, as a shell takes it."""
    arguments: list[str] = []
    words: list[str] = []
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        value = ctx.params.get(parameter.name)
        if value is None or source is None or source.name == "DEFAULT" or not parameter.opts:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            arguments += map(_shown, values)
        elif isinstance(value, bool):
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
        else:
            words += [word for v in values for word in (parameter.opts[0], _shown(v))]
    return shlex.join(["memfast", *str(ctx.info_name).split(), *arguments, *words])


def _shown(value: Any) -> str:
    """A value as it may be published: of a path from the root, the last part alone."""
    text = str(value)
    return Path(text).name if Path(text).is_absolute() else text


def _of_models(models: "Mapping[str, tuple[str, DiffusionPipeline]]") -> dict[str, Any]:
    from memfast.pipelines.identity import fingerprint
    from memfast.pipelines.loading import denoiser_of
    from memfast.pipelines.opening.naming import shown_name
    from memfast.precision import name_of

    def known(pipeline: "DiffusionPipeline") -> str:
        try:
            return fingerprint(denoiser_of(pipeline))
        except InputError as error:  # offloaded: no reason to lose a run
            return f"unknown ({error})"

    parameter = next(denoiser_of(next(iter(models.values()))[1]).parameters())
    device, dtype = parameter.device, name_of(parameter.dtype)
    found = {
        role: {
            "name": shown_name(name),
            "pipeline": type(pipeline).__name__,
            "fingerprint": known(pipeline),
        }
        for role, (name, pipeline) in models.items()
    }
    return {"models": found, "device": f"{device} ({_device_name(device)})", "dtype": dtype}


def _device_name(device: Any) -> str:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def this_call() -> str:
    """Identifies the command that runs, and every value it was given or has by default."""
    return _call.get()


@contextmanager
def called(ctx: Any) -> Iterator[None]:
    """Within the context `note_provenance` and `this_call` know how a command was called."""
    values = {name: str(value) for name, value in ctx.params.items() if name not in UNTOLD}
    given = _given.set(command_line(ctx))
    call = _call.set(run_hash({"command": ctx.info_name, **values}))
    try:
        yield
    finally:
        _given.reset(given)
        _call.reset(call)
