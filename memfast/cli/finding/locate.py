"""memfast locate MODEL [--memorized F] --reference F --out SUBSPACE.safetensors [--overlap]"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import Limits, MaxRejected
from memfast.errors import InputError, some
from memfast.prompts import BORNE

if TYPE_CHECKING:
    from memfast.choosing.subspace_study import OverlapStudy
    from memfast.prompts import PromptSet
    from memfast.selection import Subspace
    from memfast.statistics import NeuronStatistics

STUDY = "overlap"  # the kind of folder that --overlap writes
NULL = "null"  # as --reference: the empty prompt, once


@options.with_request
def locate(
    model: options.Model,
    reference: Annotated[
        str, typer.Option(help="Prompt list, 'null' (the empty prompt), or `memfast collect`'s.")
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write (a folder with --overlap).")],
    memorized: Annotated[
        str | None, typer.Option(help="The same; not for rule reference, which needs none.")
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share to remove, between 0 and 1.")] = 0.02,
    max_damage: Annotated[
        float | None,
        typer.Option(
            help="Rules reference, selective, gates: as much as keeps the held-out loss times this."
        ),
    ] = None,
    rule: Annotated[
        str, typer.Option(help="neurons, weights, paper, reference, selective, or gates.")
    ] = "neurons",
    score: Annotated[
        str | None, typer.Option(help="difference, wanda, z, welch, or gradient.")
    ] = None,
    per: Annotated[str | None, typer.Option(help="Rank global, by site, or by row.")] = None,
    over_steps: Annotated[
        str | None, typer.Option(help="mean, union, intersection, or minimum.")
    ] = None,
    min_steps: Annotated[int, typer.Option(min=1, help="Steps that must select.")] = 1,
    beta: Annotated[
        float | None, typer.Option(help="Weight of the memorized prompts, rule selective: 0.5.")
    ] = None,
    gate_steps: Annotated[int, typer.Option(min=1, help="Steps of descent, for rule gates.")] = 200,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Study how far disjoint sets' masks overlap.")
    ] = False,
    subsets: Annotated[int, typer.Option(min=2, help="Disjoint sets, for --overlap.")] = 4,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
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
    """Find the neurons (or weights) that memorized prompts use and reference prompts do not."""
    from memfast.choosing.locating import check_names
    from memfast.choosing.locating import locate as run
    from memfast.choosing.rules import RULES
    from memfast.cli.console import progress
    from memfast.cli.finding.least_needed import least_needed
    from memfast.cli.one_file import check_file
    from memfast.files import check_replaceable
    from memfast.pipelines.loading import denoiser_of
    from memfast.statistics import NeuronStatistics

    if overlap:
        check_replaceable(out, STUDY, overwrite)
    else:
        check_file(out, overwrite)
    how = {"rule": rule, "fraction": fraction, "score": score, "per": per}
    how |= {"over_steps": over_steps, "min_steps": min_steps, "beta": beta}
    check_names(**how)
    settings: dict[str, Any] = {"steps": steps, "seed": seed, "batch_size": batch_size, **request}
    collector = collector_for(rule, score)
    contrasts, by_need = RULES[rule].contrasts, RULES[rule].by_need
    if memorized is None and (contrasts or rule == "gates"):
        raise InputError(f"--memorized: rule {rule!r} needs it")
    if max_damage is not None and not by_need:
        raise InputError(f"--max-damage: not for rule {rule!r}; give --fraction")
    if overlap and by_need:
        raise InputError(f"--overlap: not for rule {rule!r}")
    named = {"memorized": memorized, "reference": reference}
    sets = {
        name: open_set(source, max_rejected) for name, source in named.items() if source is not None
    }
    if contrasts:
        check_disjoint(*sets.values())
    pipeline = options.open_pipeline(model, device=device, dtype=dtype, attention=attention)
    with progress() as bar:
        if overlap:
            study = run_study(pipeline, sets, subsets, collector, settings, how, bar.stage)
        elif by_need:
            subspace, known = least_needed(
                pipeline, sets, settings, request, how, max_damage, gate_steps, bar.stage
            )
        else:
            statistics = [
                found
                if isinstance(found, NeuronStatistics)
                else collector(pipeline, found, progress=bar.stage(name, len(found)), **settings)
                for name, found in sets.items()
            ]
    if overlap:
        sources = {"model": (model, pipeline)}, sets, seed
        show_study(study, how, sources, out, overwrite)
    elif by_need:
        show(subspace, [known], sets, out, overwrite)
    else:
        ours, theirs = statistics
        found = run(ours, theirs, denoiser_of(pipeline), **how)
        show(found, statistics, sets, out, overwrite)


def open_set(source: str, max_rejected: int) -> "PromptSet | NeuronStatistics":
    """What --memorized or --reference names."""
    from memfast.prompts import PromptSet, open_list
    from memfast.statistics import NeuronStatistics

    if source == NULL:
        return PromptSet.of([""], NULL)
    path = Path(source)
    if path.suffix == ".safetensors":
        return NeuronStatistics.load(path)
    return open_list(path, max_rejected=max_rejected)


def check_disjoint(
    memorized: "PromptSet | NeuronStatistics", reference: "PromptSet | NeuronStatistics"
) -> None:
    """Refuse lists that share a prompt before anything is run (`locate` does it afterwards)."""
    from memfast.prompts import PromptSet

    if isinstance(memorized, PromptSet) and isinstance(reference, PromptSet):
        ids, texts = set(reference.ids), set(reference.texts)
        shared = [prompt.id for prompt in memorized if prompt.id in ids or prompt.text in texts]
        if shared:
            raise InputError(f"prompts in both memorized and reference: {some(shared)}")


def collector_for(rule: str, score: str | None) -> Callable[..., "NeuronStatistics"]:
    """What collects the statistics that a rule and its score need."""
    from memfast.observing.collecting import collect
    from memfast.observing.gradients import collect_gradients

    if score == "gradient":
        return collect_gradients
    if rule == "paper":
        return partial(collect, rows="both", row_normalised=True)
    return partial(collect, prompt_norms=score in ("z", "welch"))


def show(
    subspace: "Subspace",
    statistics: list["NeuronStatistics"],
    sets: dict[str, Any],
    out: Path,
    overwrite: bool,
) -> None:
    """Write the subspace and its summary."""
    from memfast.cli.one_file import finish_file
    from memfast.prompts import inputs

    plain = {"selects": subspace.kind, "removed": subspace.removed, "density": subspace.density}
    by_site = {site: float(mask.float().mean()) for site, mask in subspace.masks.items()}
    left_out = [prompt for each in statistics for prompt in each.skipped]
    plain["left_out"] = len(left_out)
    notes = [note for each in statistics for note in each.header.get("notes", ())]
    details = {"density_by_site": by_site, "left_out_prompts": left_out, **subspace.header}
    about: dict[str, Any] = {"inputs": inputs(**sets), "notes": notes, "details": details}
    finish_file(out, subspace.save, "located", plain | about, overwrite)


def run_study(
    pipeline: Any,
    sets: dict[str, Any],
    subsets: int,
    collector: Callable[..., "NeuronStatistics"],
    settings: dict[str, Any],
    how: dict[str, Any],
    stage: Callable[[str, int], Any],
) -> "OverlapStudy":
    """Collect disjoint sets of both kinds, and the empty prompt, and compare their masks."""
    from memfast.choosing.subspace_study import study_overlap
    from memfast.pipelines.loading import denoiser_of
    from memfast.prompts import PromptSet
    from memfast.prompts.groups import equal_sets

    for name, found in sets.items():
        if not isinstance(found, PromptSet) or found.name == NULL:
            raise InputError(
                f"--{name}: --overlap needs a prompt list, to make disjoint sets of it"
            )
    size = min(len(found) for found in sets.values()) // subsets
    statistics = {}
    for name, found in sets.items():
        parts = equal_sets(found, subsets, size, settings["seed"])
        advance = stage(name, sum(len(part) for part in parts))
        statistics[name] = [collector(pipeline, p, progress=advance, **settings) for p in parts]
    null = collector(pipeline, [""], progress=stage("the empty prompt", 1), **settings)
    return study_overlap(**statistics, null=null, model=denoiser_of(pipeline), **how)


def show_study(
    study: "OverlapStudy", how: dict[str, Any], sources: Any, out: Path, overwrite: bool
) -> None:
    """Write the study's report and summary, and print its table and what it means."""
    from memfast.cli.console import console, show_table, tell
    from memfast.cli.provenance import write_run
    from memfast.files import replace_folder
    from memfast.prompts import inputs
    from memfast.report.overlap import overlap_table

    summary = how | study.summary() | {"inputs": inputs(**sources[1])}

    def write(folder: Path) -> None:
        folder.mkdir()
        write_run(folder, STUDY, summary, *sources)

    replace_folder(out, write, STUDY, overwrite)
    show_table("overlap of disjoint sets' masks", *overlap_table(summary))
    console.print(study.sentence, soft_wrap=True, highlight=False)
    console.print(f"wrote {out}/summary.json and report.html", soft_wrap=True, highlight=False)
    tell(summary)
