"""memfast plan MODEL COMMAND"""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfast.cli import options
from memfast.errors import InputError

if TYPE_CHECKING:
    import torch

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def plan(
    model: options.Model,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="Of memfast, or 'all'.")],
    gpu: Annotated[
        str, typer.Option(help="For its memory and time; see the message for names.")
    ] = ("H100"),
    memory: Annotated[
        str | None, typer.Option(help="What there is, such as 24GB (the GPU's own).")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts that the time is for.")] = 1000,
    dtype: options.Dtype = "auto",
) -> None:
    """What a command takes: memory, operations, time. From configs; no weights are read."""
    from memfast.cli.console import show_table
    from memfast.planning.parts import parts_of
    from memfast.planning.plan import COMMANDS, GPUS
    from memfast.planning.plan import plan as run

    if gpu not in GPUS:
        raise InputError(f"--gpu {gpu}: must be one of {', '.join(GPUS)}")
    if dtype not in options.DTYPES:
        raise InputError(f"--dtype {dtype}: must be one of {', '.join(options.DTYPES)}")
    have = int(GPUS[gpu][1] * 1e9) if memory is None else parse_bytes(memory)
    parts = parts_of(model)
    chosen = _dtype(dtype, sum(parts.values.values()), have)
    rows: list[tuple[Any, ...]] = []
    for name in COMMANDS if command == "all" else (command,):
        found = run(parts, name, chosen, have)
        rows.append(
            (
                name,
                _gb(found.weights),
                _gb(found.row),
                f"{found.batch}{' recomputing' if found.checkpointing else ''}" or "none",
                _gb(found.bytes) if found.batch else f"{_gb(found.least)}: does not fit",
                f"{found.flops * found.passes / 1e12:.4g}",
                f"{found.seconds(gpu, prompts) / 3600:.2g} h",
            )
        )
    count = f"{prompts:,} prompts on {gpu}"
    columns = ("command", "weights", "a row", "rows at once", "in all", "TFLOP a prompt", count)
    show_table(f"{model} in {found.dtype}, {have / 1e9:.0f} GB", columns, rows)


def parse_bytes(text: str) -> int:
    """The bytes of "24GB"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise InputError(f"--memory {text}: must be a number with a unit, such as 24GB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def _dtype(name: str, values: int, memory: int) -> "torch.dtype":
    """As `places` chooses on an accelerator with so much memory."""
    import torch

    from memfast.cli.places import crowds

    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if crowds(values, memory) else torch.float32


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
