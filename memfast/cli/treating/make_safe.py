"""memfast make-safe MODEL --reference F [--memorized F] --out DIR: from a model to a safer one."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.finding.locate import locate
from memfast.cli.proving.evaluate import evaluate
from memfast.cli.treating.compact import compact
from memfast.cli.treating.reached import missed_damage
from memfast.cli.treating.repair import repair
from memfast.errors import InputError

if TYPE_CHECKING:
    from memfast.prompts import PromptSet


@options.with_request
def make_safe(
    model: options.Model,
    reference: Annotated[
        Path, typer.Option(help="Captions (images optional) to stay good at; 8 or more.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder; the same command goes on in it.")],
    memorized: Annotated[
        Path | None, typer.Option(help="Captions to forget, with their images to prove it on.")
    ] = None,
    target_size: Annotated[
        float | None, typer.Option(help="Parameters to be left at most, as a share of MODEL's.")
    ] = None,
    max_damage: Annotated[
        float, typer.Option(help="Loss on reference captions over MODEL's, at most.")
    ] = 1.02,
    repair_steps: Annotated[int, typer.Option(min=0, help="Steps of repair; 0: none.")] = 150,
    attack_steps: Annotated[int, typer.Option(min=0, help="Steps of the attack; 0: none.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Images a caption to judge by.")] = 2,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attention: options.Attention = "auto",
    config: options.Config = None,
    **request: Unpack[options.Request],
) -> None:
    """Remove what reference captions do not need, repair, evaluate and attack: one folder."""
    from memfast.blocks.sizes import size_of
    from memfast.cli.console import console, finish, missed
    from memfast.cli.provenance import add_report, note_provenance
    from memfast.files import atomic_write_json, read_json
    from memfast.pipelines.identity import fingerprint
    from memfast.pipelines.loading import denoiser_of
    from memfast.prompts import open_list

    if max_damage <= 1:
        raise InputError(f"--max-damage {max_damage}: must be above 1")
    attacked = attack_steps > 0 and memorized is not None
    lists = {"reference": open_list(reference)}
    if memorized is not None:
        lists["memorized"] = open_list(memorized)
    if attacked and not any(prompt.image for prompt in lists["reference"]):
        attacked = False
        console.print("No attack: the reference captions have no images to attack beside it.")
    digests = {name: prompts.digest for name, prompts in lists.items()}
    dense = denoiser_of(options.open_pipeline(model, device=device, dtype=dtype))
    size = size_of(dense)
    console.print(f"{size.share:.1%} of the model are feed-forwards: no more can go.")
    if target_size is not None and target_size <= 1 - size.share:
        raise InputError(
            f"--target-size {target_size}: {size.share:.1%} of this model are feed-forwards, so "
            f"{1 - size.share:.3f} is out of reach"
        )
    _same_run(
        out,
        {"model": fingerprint(dense), **digests, "max_damage": max_damage, "seed": seed}
        | {"repair_steps": repair_steps, "attack_steps": attack_steps, "seeds": seeds}
        | {name: value for name, value in request.items() if value is not None},
    )
    del dense
    known = lists.get("memorized")
    located = None if known is None else _half(known, out / "located.jsonl", seed)
    on: dict[str, Any] = {"seed": seed, "device": device, "dtype": dtype, "attention": attention}
    on |= request
    subspace, smaller, repaired = (
        out / name for name in ("subspace.safetensors", "compact", "repaired")
    )
    if not subspace.exists():
        _step(console, "1 of 4, locating")
        how = {"rule": "reference", "max_damage": max_damage}
        locate(model, reference=str(reference), out=subspace, **how, **on)
    if not (smaller / "summary.json").exists():
        _step(console, "2 of 4, compacting")
        compact(model, out=smaller, subspace=subspace, reference=reference, **on)
    if repair_steps and not (repaired / "summary.json").exists():
        _step(console, "3 of 4, repairing")
        how = {"memorized": located, "steps": repair_steps, "reference": reference}
        with suppress(typer.Exit):  # a bound that is missed: judged below
            repair(str(smaller), original=model, out=repaired, **how, **on)
    summaries = [folder / "summary.json" for folder in (smaller, repaired)]
    made = [read_json(path) for path in summaries if path.exists()]
    chosen, figures = repaired if len(made) == 2 else smaller, made[-1]
    damage = figures["damage_after"] if len(made) == 2 else figures["damage"]
    if len(made) == 2 and damage > figures["damage_before"]:
        chosen, damage = smaller, figures["damage_before"]
        console.print("The repair made it worse: the compact model is the result.")
    proof = out / "evaluation"
    if memorized is not None and not (proof / "summary.json").exists():
        _step(console, "4 of 4, evaluating and attacking")
        judged = {"memorized": memorized, "reference": reference, "located": located}
        tried = {"attack": attacked, "attack_steps": max(1, attack_steps), "seeds": seeds}
        evaluate(str(chosen), original=model, out=proof, **judged, **tried, **on)
    left = made[0]["parameters_after"] / made[0]["parameters_before"]
    summary = {"model": str(chosen.name), "size": left, "damage": damage}
    summary |= {"target_size": target_size, "max_damage": max_damage}
    summary |= {"attacked": attacked}
    summary |= {"proof": f"{proof.name}/report.html" if memorized else "none: give --memorized"}
    unmet = missed_damage(damage, max_damage)
    if target_size is not None and left > target_size:
        unmet.append(f"--target-size {target_size}: {left:.3f} of the parameters are left")
    atomic_write_json(out / "summary.json", summary | {"failed": unmet})
    note_provenance(out, "make-safe", prompts=lists, seed=seed)
    add_report(out)
    finish(out, "made safer, short of what was asked" if unmet else "made safer", summary)
    if unmet:
        missed(*unmet)


def _step(console: Any, told: str) -> None:
    console.print(told, style="bold")


def _same_run(out: Path, settings: Mapping[str, Any]) -> None:
    """Make `out` the folder of this run, or accept it as one. Raises InputError for another's."""
    from memfast.files import check_out, first_difference, read_record, try_out, write_record

    path = out / "run.json"
    if path.exists():
        found = read_record(path, "make-safe run", 1)
        if found != dict(settings):
            raise InputError(f"--out {out}: holds another run: {first_difference(found, settings)}")
        return
    check_out(out)
    try_out(out)
    out.mkdir(parents=True, exist_ok=True)
    write_record(path, "make-safe run", 1, settings)


def _half(memorized: "PromptSet", path: Path, seed: int) -> Path:
    """Half of the memorized captions, whole groups, as a list: the other half only judges."""
    from memfast.files import atomic_write_text, to_json
    from memfast.prompts.groups import deal, prompt_groups

    prompts = list(memorized)
    first, _ = deal(prompt_groups(prompts), 2, seed)
    rows = [{"id": p.id, "prompt": p.text, "image": p.image, "seed": p.seed} for p in prompts]
    atomic_write_text(path, "".join(to_json(rows[place]) + "\n" for place in first))
    return path
