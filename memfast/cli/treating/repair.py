"""memfast repair MODEL --original ORIGINAL --reference F [--memorized F] --out DIR"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import Limits, MaxRejected
from memfast.errors import InputError, writing
from memfast.prompts import BORNE


def _read_recipe(ctx, name: str | None) -> str | None:
    """Let a recipe give options that neither the command line nor --config does."""
    from memfast.repairing.recipes import bundle

    if name is not None:
        values = bundle(name)
        values["batch_size"] = values.pop("batch")
        ctx.default_map = {**values, **(ctx.default_map or {})}
    return name


@options.with_request
def repair(
    model: options.Model,
    original: Annotated[
        str,
        typer.Option(help="The model that MODEL was made from.", callback=options.model_there),
    ],
    reference: Annotated[Path, typer.Option(help="Captions (images optional) to stay good at.")],
    out: options.OutFolder,
    memorized: Annotated[
        Path | None, typer.Option(help="Captions to forget, with their images if attacked.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="quick or thorough: a bundle of the options below, each of which may be changed.",
            callback=_read_recipe,
            is_eager=True,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Outer steps (of each round).")] = 150,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of each objective a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Adam's, at its highest.")] = 3e-4,
    perturb: Annotated[
        float, typer.Option(help="Shrink and perturb all weights first: 0, or below 1.")
    ] = 0.0,
    selected: Annotated[
        float, typer.Option(help="With --memorized: a share of the weights to perturb more.")
    ] = 0.0,
    perturb_high: Annotated[float, typer.Option(help="Of that share.")] = 0.95,
    perturb_low: Annotated[float, typer.Option(help="Of all other weights.")] = 0.4,
    features: Annotated[float, typer.Option(help="Weight: outputs of each block.")] = 0.0,
    ema: Annotated[float, typer.Option(help="Decay of the weights' average; 0: none.")] = 0.0,
    watch: Annotated[
        int,
        typer.Option(min=0, help="Steps between looks at what comes back, to stop; 0: none."),
    ] = 0,
    surrogate: Annotated[float, typer.Option(help="Weight: memorized captions.")] = 0.5,
    adversarial: Annotated[float, typer.Option(help="Weight: attacked embeddings.")] = 0.5,
    every: Annotated[
        int, typer.Option(min=1, help="Steps between those with attacked embeddings.")
    ] = 1,
    stride: Annotated[int, typer.Option(min=1, help="Of the attack, at each of those.")] = 3,
    scattered: Annotated[float, typer.Option(help="Weight: far embeddings.")] = 0.25,
    controls: Annotated[int, typer.Option(min=0, help="Reference images attacked as well.")] = 24,
    rounds: Annotated[
        int, typer.Option(min=0, help="Attack, remove and repair up to so many times.")
    ] = 0,
    max_damage: Annotated[
        float, typer.Option(help="Held-out loss over the original's that rounds may cost.")
    ] = 1.02,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 25,
    graphs: options.Graphs = True,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    max_rejected: MaxRejected = BORNE,
    limit: Limits = None,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Bring a pruned model back to its original's quality, and harden it against attacks.

    Interrupted, the same command goes on from OUT.repair.safetensors beside --out.
    """
    from memfast.blocks.families import ffn_sites
    from memfast.cli.console import finish, missed, progress
    from memfast.cli.provenance import write_run
    from memfast.files import locked_out
    from memfast.pipelines.loading import denoiser_of
    from memfast.pipelines.opening.naming import shown_name
    from memfast.pipelines.saving import check_room, save_pipeline
    from memfast.processes.stopping import keeping
    from memfast.prompts import inputs, open_list
    from memfast.repairing.rounds import numbered, repair_in_rounds
    from memfast.repairing.run import repair as run
    from memfast.repairing.settings import RepairSettings
    from memfast.repairing.teaching.checkpoint import KIND, steps_in

    check_room(out, overwrite)
    if rounds and memorized is None:
        raise InputError("--rounds: needs --memorized, with images to attack")
    settings = RepairSettings(
        steps=steps,
        batch=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        recipe=recipe or "",
        perturb=perturb,
        selected=selected,
        perturb_high=perturb_high,
        perturb_low=perturb_low,
        features=features,
        ema=ema,
        watch=watch,
        every=every,
        stride=stride,
        surrogate=surrogate,
        adversarial=adversarial,
        scattered=scattered,
        controls=controls,
        save_every=save_every,
        graphs=graphs,
    )
    named: dict[str, Any] = {"reference": reference, "memorized": memorized}
    sets = [p and open_list(p, max_rejected=max_rejected) for p in named.values()]
    opened = {"device": device, "dtype": dtype, "attention": attention}
    pipeline: Any = options.open_pipeline(model, **opened)
    first: Any = options.open_pipeline(original, **opened)
    check_room(out, overwrite, pipeline)
    checkpoint = out.with_name(f"{out.name}.repair.safetensors")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    checkpoints = [checkpoint, *(numbered(checkpoint, number) for number in range(rounds))]

    def kept() -> str:
        done = sum(steps_in(path) for path in checkpoints)
        return f"{done} of {steps * max(1, rounds)} steps"

    how: dict[str, Any] = {**request, "settings": settings, "checkpoint": checkpoint}
    with locked_out(out), keeping(kept), progress() as bar:
        if rounds:
            how |= {"rounds": rounds, "max_damage": max_damage, "stage": bar.stage}
            result, found, notes = repair_in_rounds(pipeline, first, *sets, **how)
            last = found[-1]
            figures = {
                "damage": last.damage,
                "attacked": str(last.attacked),
                "control": str(last.control),
                "met": str(last.met),
                "rounds": [each.as_dict() for each in found],
                "notes": notes,
            }
        else:
            repaired = run(pipeline, first, *sets, progress=bar.stage, **how)
            result = repaired.pipeline
            figures = {
                **repaired.figures,
                "history": repaired.history,
                "looks": [asdict(look) for look in repaired.looks],
                "notes": list(repaired.notes),
            }
        neurons = [sum(ffn_sites(denoiser_of(p)).values()) for p in (first, result)]
        named = {"reference": sets[0], "memorized": sets[1]}
        models = {"result": (out.name, result), "original": (original, first)}
        summary = {"model": shown_name(model), "original": shown_name(original)}
        summary |= {"neurons_original": neurons[0], "neurons": neurons[1], **figures}
        summary |= {"settings": settings.as_dict(), "inputs": inputs(**named)}

        def add(folder: Path) -> None:
            write_run(folder, "repair", summary, models, named, seed)

        save_pipeline(result, out, overwrite, add, dict.fromkeys(checkpoints, KIND))
    worse = _worse(figures, max_damage if rounds else None)
    finish(out, "repaired, and worse than it was" if worse else "repaired", summary)
    if worse:
        missed(worse)


def _worse(figures: Mapping[str, Any], max_damage: float | None) -> str | None:
    """What a repair did not reach: a lower loss than before, or the bound of its rounds."""
    if max_damage is not None:
        damage, met = figures["damage"], figures["met"]
        if damage > max_damage:
            return f"--max-damage {max_damage}: the held-out loss is {damage:.4f} of the original's"
        return None if met == "True" else "the attack still does better than on its control"
    before, after = figures["damage_before"], figures["damage_after"]
    if after <= before:
        return None
    return f"the held-out loss went from {before:.4f} to {after:.4f} of the original's"
