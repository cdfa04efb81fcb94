"""Where a result comes from: written beside it by every command that makes a folder."""

import platform
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfast.files import atomic_write_json

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from memfast.prompts import PromptSet

NAME = "provenance.json"
_given: ContextVar[str] = ContextVar("given", default="")


def command_line(ctx: Any) -> str:
    """The command with every value that is not a default, as a shell takes it."""
    words: list[str] = []
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        value = ctx.params.get(parameter.name)
        if value is None or source is None or source.name == "DEFAULT" or not parameter.opts:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            words[:0] = map(_shown, values)
        elif isinstance(value, bool):
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
        else:
            words += [word for v in values for word in (parameter.opts[0], _shown(v))]
    return shlex.join(["memfast", *str(ctx.info_name).split(), *words])


def _shown(value: Any) -> str:
    """A value as it may be published: of a path from the root, the last part alone."""
    text = str(value)
    return Path(text).name if Path(text).is_absolute() else text


def note_provenance(
    folder: Path,
    kind: str,
    models: "Mapping[str, tuple[str, DiffusionPipeline]] | None" = None,
    prompts: "Mapping[str, PromptSet | None] | None" = None,
    seed: int | None = None,
) -> None:
    """Write provenance.json: kind of run, command, date, versions; and where they are given, the
    device, each model's name and fingerprint, each list's digest, and the seed."""
    from memfast.pipelines.identity import versions

    found: dict[str, Any] = {"kind": kind, "command": _given.get(), "seed": seed}
    found["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found["versions"] = {**versions(), "python": platform.python_version()}
    found["prompts"] = {
        role: {"name": each.name, "prompts": len(each), "digest": each.digest}
        for role, each in (prompts or {}).items()
        if each is not None
    }
    if models:
        found |= _of_models(models)
    atomic_write_json(folder / NAME, found)


def _of_models(models: "Mapping[str, tuple[str, DiffusionPipeline]]") -> dict[str, Any]:
    from memfast.pipelines.identity import fingerprint
    from memfast.pipelines.loading import denoiser_of, shown_name

    parameter = next(denoiser_of(next(iter(models.values()))[1]).parameters())
    device, dtype = parameter.device, str(parameter.dtype).removeprefix("torch.")
    found = {
        role: {
            "name": shown_name(name),
            "pipeline": type(pipeline).__name__,
            "fingerprint": fingerprint(denoiser_of(pipeline)),
        }
        for role, (name, pipeline) in models.items()
    }
    return {"models": found, "device": f"{device} ({_device_name(device)})", "dtype": dtype}


def _device_name(device: Any) -> str:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


@contextmanager
def called(ctx: Any) -> Iterator[None]:
    """Within the context `note_provenance` knows how a command was called."""
    token = _given.set(command_line(ctx))
    try:
        yield
    finally:
        _given.reset(token)
