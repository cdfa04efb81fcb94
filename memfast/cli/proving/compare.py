"""memfast compare A B C --original M --memorized F --reference F --out DIR, or audits' folders."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.proving.evaluate import Reference, evaluate
from memfast.errors import InputError


@options.with_request
def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODELS | AUDITS", help="Treated models, or audits.")
    ],
    original: Annotated[
        str | None,
        typer.Option(help="The model that all were made from.", callback=options.model_there),
    ] = None,
    memorized: Annotated[
        Path | None, typer.Option(help="Captions with their training images (demo: its own).")
    ] = None,
    reference: Reference = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare beside them, by comma, or 'all'.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; the same command goes on in it.")
    ] = None,
    attack: Annotated[bool, typer.Option("--attack", help="Attack every model as well.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Images a caption and repetition.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of everything.")] = 3,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Rank models on one harness: copies first, then quality. Or set audits side by side."""
    from memfast.auditing.comparing import compare_audits
    from memfast.cli.console import console, finish, show_table, tell
    from memfast.files import atomic_write_json, read_json

    if original is None:
        rows = compare_audits([Path(model) for model in models])
        show_table("audits", list(rows[0]), [list(row.values()) for row in rows])
        tell({"audits": rows})
        return
    if out is None:
        raise InputError("--out: name the folder to write")
    if len(set(models)) < len(models):
        raise InputError(f"{', '.join(models)}: each model once")
    how: dict[str, Any] = {"memorized": memorized, "reference": reference, "attack": attack}
    how |= {"seeds": seeds, "repeats": repeats, "seed": seed, "device": device, "dtype": dtype}
    rows = []
    for number, model in enumerate(models, 1):
        folder = out / f"{number}-{Path(model).name}"
        if not (folder / "summary.json").exists():
            console.print(f"{number} of {len(models)}: {model}", style="bold", highlight=False)
            evaluate(model, original=original, out=folder, **how, **request)
        found = read_json(folder / "summary.json")["methods"]
        rows += (
            [_row(model, found[1])]
            if number > 1
            else [_row("original", found[0]), _row(model, found[1])]
        )
    if methods:
        folder = out / "methods"
        if not (folder / "summary.json").exists():
            evaluate(original, methods=methods, out=folder, **how, **request)
        found = read_json(folder / "summary.json")["methods"]
        rows += [_row(row["method"], row) for row in found[1:]]
    ranked = sorted(rows, key=lambda row: (row["copies"], row["loss"] or 0.0))
    show_table(
        "models, fewest copies first; loss: on other captions, over the original's",
        ["model", "copies", "95 %", "attacked", "loss"],
        [
            [row["model"], row["copies"], row["interval"], row["attacked"], row["loss"]]
            for row in ranked
        ],
    )
    atomic_write_json(out / "summary.json", {"ranked": ranked})
    finish(out, "compared", {"models": len(rows), "ranked": ranked})


def _row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A method's headline: its worst copying metric, under attack too, and the loss it costs."""

    def worst(rates: dict[str, Any]) -> dict[str, Any]:
        return max(rates.values(), key=lambda rate: rate["value"], default={"value": None})

    copies = worst({m: parts["all"] for m, parts in found["memorization_rate"].items()})
    loss = found["reference"].get("loss_ratio") or found["heldout"].get("loss_ratio") or {}
    return {
        "model": name,
        "copies": copies["value"],
        "interval": f"{copies['low']:.3f}-{copies['high']:.3f}",
        "attacked": worst(found["attacked"])["value"],
        "loss": loss.get("value"),
    }
