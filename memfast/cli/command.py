"""What holds of every option, by its type: one line says which value is not legal."""

import math
import os
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from memfast.cli.provenance import called
from memfast.errors import InputError, one_line
from memfast.files import there

LONGEST = 4096  # characters of a value
WHOLE = 2**63  # integers are below
WRITTEN = ("--out", "--export")  # paths that need not be there


def speaking(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with two more options: to print nothing, or its summary as JSON."""

    @wraps(command)
    def run(*given: Any, quiet: bool, as_json: bool, **named: Any) -> Any:
        from memfast.cli.console import speak

        speak(quiet, as_json)
        return command(*given, **named)

    options = {
        "quiet": Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")],
        "as_json": Annotated[
            bool, typer.Option("--json", help="Print the summary as JSON on stdout, alone.")
        ],
    }
    return with_options(run, options, False)


def with_options(
    command: Callable[..., Any], options: Mapping[str, Any], default: Any
) -> Callable[..., Any]:
    """The command with these options beside its own, in the place of its `**` where it has one."""
    own = signature(command)
    kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind in options.items()
    ]
    command.__signature__ = own.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    command.__annotations__ = {**command.__annotations__, **options}
    return command


class Command(TyperCommand):
    """A command whose values are checked before it runs, wherever they come from."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:
            name = getattr(getattr(error, "param", None), "name", None)
            _place(ctx, name, getattr(error, "message", "") or one_line(error))
            raise
        for parameter in self.params:
            given = ctx.params.get(parameter.name)
            for value in given if isinstance(given, list | tuple) else [given]:
                try:
                    check(parameter.opts[0], value)
                except InputError as error:
                    _place(ctx, parameter.name, str(error))
                    raise
        return rest

    def invoke(self, ctx: Any) -> Any:
        with called(ctx):
            return super().invoke(ctx)


def check(option: str, value: Any) -> None:
    """Raise InputError, with what is legal, for a value that no option of its type can have."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{option} {value}: must be a finite number")
    if isinstance(value, int) and not -WHOLE <= value < WHOLE:
        raise InputError(f"{option}: must be a whole number below 2^63 in size")
    if isinstance(value, str) and not 0 < len(value.strip()) <= LONGEST:
        raise InputError(f"{option}: must be 1 to {LONGEST} characters, not {len(value.strip())}")
    if isinstance(value, Path):
        _check_path(option, value)


def _check_path(option: str, path: Path) -> None:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{option} {str(path)[:60]}: cannot be a path here ({reason})") from error
    if option.startswith("-") and option not in WRITTEN:
        there(path, "file or folder", f"{option} {path}")


def _place(ctx: Any, name: str | None, reason: str) -> None:
    """Raise InputError with the file's name where --config gave the value that is refused."""
    source = ctx.get_parameter_source(name) if name else None
    if getattr(source, "name", "") == "DEFAULT_MAP":
        raise InputError(f"--config {ctx.params.get('config')}: {name}: {reason}")
