"""memfast demo [--out DIR]"""

import math
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from memfast.cli import options
from memfast.errors import InputError


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("memfast-demo"),
    export: Annotated[
        Path | None, typer.Option(help="Only write the demo's lists and pictures, there.")
    ] = None,
    max_damage: Annotated[
        float, typer.Option(help="Remove as many neurons as keep the held-out loss times this.")
    ] = 1.02,
    attacked: Annotated[int, typer.Option(min=0, help="Held-out images to attack.")] = 8,
    erase_steps: Annotated[
        int,
        typer.Option(min=0, help="Also erase, and teach for so many steps: 1500 take 10 minutes."),
    ] = 0,
    memorized: Annotated[int, typer.Option(min=4, help="Memorized prompts, at most.")] = 96,
    singles: Annotated[int, typer.Option(min=2, help="Other prompts to compare.")] = 48,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """The whole path on the embedded model: remove, erase, generate, compare, attack, report."""
    from memfast.cli.console import console, progress
    from memfast.demo import experiment
    from memfast.demo.kept import KIND, keeping_results
    from memfast.files import check_replaceable
    from memfast.pipelines.drivers.table import driver_of
    from memfast.pipelines.identity import fingerprint
    from memfast.precision import name_of
    from memfast.processes.stopping import keeping

    if export is not None:
        copy_lists(export, overwrite)
        console.print(f"wrote {export}/memorized.jsonl, heldout.jsonl, singles.jsonl and images/")
        return
    if max_damage <= 1:
        raise InputError(f"--max-damage {max_damage}: must be above 1")
    check_replaceable(out, "demo", overwrite)
    start = perf_counter()
    pipeline: Any = options.open_pipeline("demo", device=device, dtype=dtype)
    plan = experiment.Plan(max_damage, memorized, singles, attacked, erase_steps, seed)
    driver = driver_of(pipeline)
    takes = plan.rows(driver.schedule().num_inference_steps) * experiment.seconds_a_row(pipeline)
    console.print(f"about {math.ceil(takes / 60)} minutes; stopped, the same command goes on")
    identity = {
        **asdict(plan),
        "model": fingerprint(driver.model),
        "device": str(driver.device),
        "dtype": name_of(driver.dtype),
    }
    keeps = keeping_results(out, identity, overwrite)
    with keeps as kept, progress() as bar, keeping(kept.told):
        result = experiment.run(pipeline, plan, kept, bar.stage)
    with keeping(kept.told):
        _write(out, result, plan, perf_counter() - start, overwrite, {kept.folder: KIND})


def _write(
    out: Path, result: Any, plan: Any, seconds: float, overwrite: bool, spent: dict[Path, str]
) -> None:
    """The folder, and the closing tables."""
    from memfast.cli.console import console, show_table, tell
    from memfast.cli.provenance import write_run
    from memfast.demo import DATA, page
    from memfast.files import replace_folder
    from memfast.pipelines.saving import save_pipeline
    from memfast.prompts import read_prompts
    from memfast.report.demo import arms_table, attack_table

    settings = {name: asdict(plan)[name] for name in ("max_damage", "erase_steps", "seed")}
    summary = {**settings, "seconds": seconds} | page.summary(result)
    lists = {name: read_prompts(DATA / f"{name}.jsonl") for name in ("memorized", "singles")}
    models = {"result": ("model", result.pipeline)}

    def write(folder: Path) -> None:
        folder.mkdir()
        save_pipeline(result.pipeline, folder / "model")
        write_run(folder, "demo", summary, models, lists, plan.seed, page.albums(result))

    replace_folder(out, write, "demo", overwrite, spent)
    show_table("copies before and after", *arms_table(summary))
    if summary["attacks"]:
        show_table("brought back by an attack", *attack_table(summary))
    show_table("size and time", ("figure", "value"), result.figures.items())
    console.print(f"wrote {out}/summary.json, report.html and model/", soft_wrap=True)
    tell(summary)


def copy_lists(folder: Path, overwrite: bool) -> None:
    """The demo's lists, pictures and licences in a folder of their own."""
    from shutil import copytree, ignore_patterns

    from memfast.demo import DATA
    from memfast.files import replace_folder

    models = ignore_patterns("pipeline", "clip")
    replace_folder(folder, lambda new: copytree(DATA, new, ignore=models), "lists", overwrite)
