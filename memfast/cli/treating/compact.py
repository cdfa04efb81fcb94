"""memfast compact MODEL --subspace F --out DIR"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Unpack

from memfast.cli import options
from memfast.cli.lists import Limits, MaxRejected
from memfast.errors import InputError
from memfast.progress import Stage
from memfast.prompts import BORNE

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from memfast.prompts import PromptSet
    from memfast.selection import Subspace
    from memfast.statistics import NeuronStatistics


@options.with_request
def compact(
    model: options.Model,
    out: options.OutFolder,
    subspace: Annotated[
        Path | None, typer.Option(help="Subspace file that `memfast locate` wrote.")
    ] = None,
    format: Annotated[str, typer.Option(help="compact, portable or masked.")] = "compact",
    compensate: Annotated[
        str | None,
        typer.Option(help="mean (default, where a bias can take it), least-squares or none."),
    ] = None,
    shrink: Annotated[
        float | None, typer.Option(help="Remove this share, least needed by --reference first.")
    ] = None,
    max_damage: Annotated[
        float | None,
        typer.Option(help="Exit with 3 where the loss on --reference is over this, of before."),
    ] = None,
    shrink_of: Annotated[
        str, typer.Option(help="The share of parameters, flops or neurons of the feed-forwards.")
    ] = "parameters",
    reference: Annotated[
        Path | None, typer.Option(help="Prompt list, or (not for least-squares) statistics.")
    ] = None,
    multiple_of: Annotated[int, typer.Option(min=1, help="Round widths to a multiple.")] = 8,
    rounding: Annotated[str, typer.Option("--round", help="up (zeros) or down.")] = "up",
    buckets: Annotated[
        int | None, typer.Option(min=1, help="At most so many widths (for regional compile: 4).")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Name of the weights' variant: fp16.")] = None,
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
    """Write a smaller pipeline without the subspace's neurons."""
    from memfast.blocks.families import find_sites
    from memfast.blocks.sizes import size_of
    from memfast.cli.console import console, finish, missed, progress
    from memfast.cli.provenance import write_run
    from memfast.cli.treating.reached import harm_before, missed_damage, missed_share, reached
    from memfast.pipelines.attention import set_attention
    from memfast.pipelines.loading import denoiser_of, denoisers_of, replace_denoiser
    from memfast.pipelines.opening.naming import shown_name
    from memfast.pipelines.saving import check_room
    from memfast.prompts import inputs
    from memfast.removing.compact import compact as run
    from memfast.selection import Subspace
    from memfast.sharing import card
    from memfast.sharing.formats import save_as

    check_room(out, overwrite)
    asked = compensate is not None
    compensate = (compensate or "mean").replace("-", "_")
    _check_words(format, rounding, compensate, shrink_of)
    if subspace is None and shrink is None:
        raise InputError("nothing to remove: give --subspace, --shrink, or both")
    located = None if subspace is None else Subspace.load(subspace)
    known = _read_reference(reference, shrink, compensate, max_rejected)
    pipeline = options.open_pipeline(model, device=device, dtype=dtype)
    check_room(out, overwrite, pipeline)
    kernel = set_attention(pipeline, attention)
    settings: dict[str, Any] = {"steps": steps, "seed": seed, "batch_size": batch_size}
    settings |= request
    widths: dict[str, Any] = {"multiple_of": multiple_of, "buckets": buckets}
    dense = denoiser_of(pipeline)
    biased = all(site.contraction.bias is not None for site in find_sites(dense).values())
    if format == "masked" and not asked and not biased:
        compensate = "none"  # the masked model keeps its class, which has no bias to take a mean
    with progress() as bar:
        chosen, note = _choose(
            pipeline, located, known, shrink, shrink_of, rounding, widths, settings, bar.stage
        )
        correction = _correct(pipeline, known, chosen, compensate, settings, bar.stage)
        harm = harm_before(pipeline, known, request, seed, bar.stage)
    size = size_of(dense)
    smaller = run(dense, chosen, compensate=correction, in_place=True, **widths)
    replace_denoiser(pipeline, smaller)  # the same object, but the pipeline must note its class
    left, damage = size_of(dense), None if harm is None else harm(smaller)
    before, after = asdict(size), asdict(left)
    figures = reached(size, left, shrink, shrink_of) | {"damage": damage}
    figures |= {
        f"{key}_{when}": counts[key]
        for key in ("neurons", "parameters", "bytes")
        for when, counts in (("before", before), ("after", after))
    }
    unmet = missed_share(figures, shrink, shrink_of) + missed_damage(damage, max_damage)
    removed: dict[str, Any] = {"component": ", ".join(denoisers_of(pipeline))}
    removed |= {"neurons_removed": before["neurons"] - after["neurons"]}
    removed |= {"neurons_located": located.removed} if located else {}
    if compensate == "mean" and not chosen.mean:
        compensate = "none"  # a subspace without reference means leaves nothing to fold
    removed |= {"compensation": compensate} | ({"shrink": shrink} if shrink else {})
    source = str(pipeline.config.get("_name_or_path") or model)
    readme = card.model_card(model, format, removed, figures, card.inherited(source))
    summary = {"model": shown_name(model), "format": format, **removed, **figures}
    summary |= {"attention": kernel} | ({"warning": note} if note else {})
    if about := inputs(reference=known):
        summary |= {"inputs": about}

    def add(folder: Path) -> None:
        models = {"result": (out.name, pipeline)}
        write_run(folder, "compact", summary, models, {"reference": known}, seed)

    save_as(pipeline, out, format, overwrite=overwrite, card=readme, add=add, variant=variant)
    finish(out, "compacted, short of what was asked" if unmet else "compacted", summary)
    console.print(card.NOTICE, highlight=False)
    if unmet:
        missed(*unmet)


def _check_words(format: str, rounding: str, compensate: str, shrink_of: str) -> None:
    from memfast.removing.budget import COSTS
    from memfast.removing.compensation import COMPENSATIONS
    from memfast.sharing.formats import FORMATS

    for name, value, legal in (
        ("format", format, FORMATS),
        ("round", rounding, ("up", "down")),
        ("compensate", compensate, COMPENSATIONS),
        ("shrink-of", shrink_of, COSTS),
    ):
        if value not in legal:
            raise InputError(f"--{name} {value}: must be one of {', '.join(legal)}")


def _choose(
    pipeline: "DiffusionPipeline",
    located: Any,
    known: "PromptSet | NeuronStatistics",
    share: float | None,
    of: str,
    rounding: str,
    widths: dict[str, Any],
    settings: dict[str, Any],
    stage: Stage,
) -> "tuple[Subspace, str | None]":
    """The neurons to remove, and a warning where rounding gives too many of them back."""
    from memfast.choosing.importance import importance
    from memfast.observing.collecting import collect
    from memfast.pipelines.loading import denoiser_of
    from memfast.removing.budget import shrink
    from memfast.removing.masking import check_subspace
    from memfast.removing.widths import output_norms, round_down, warn_of_little_gain, widths_of
    from memfast.statistics import NeuronStatistics

    model, ranking, chosen = denoiser_of(pipeline), None, located
    if share is not None:
        if not isinstance(known, NeuronStatistics):
            known = collect(pipeline, known, progress=stage("reference", len(known)), **settings)
        chosen = shrink(model, known, share, of=of, subspace=located)
        ranking = importance(check_subspace(model, chosen), known)
    sites = check_subspace(model, chosen)
    if rounding == "down":
        chosen = round_down(sites, chosen, ranking or output_norms(sites), **widths)
    return chosen, warn_of_little_gain(chosen, widths_of(sites, chosen, **widths))


def _correct(
    pipeline: "DiffusionPipeline",
    known: "PromptSet | NeuronStatistics",
    chosen: "Subspace",
    compensate: str,
    settings: dict[str, Any],
    stage: Stage,
) -> Any:
    """What compact is to compensate with."""
    from memfast.removing.least_squares import least_squares
    from memfast.statistics import NeuronStatistics

    if compensate != "least_squares" or isinstance(known, NeuronStatistics):
        return compensate
    advance = stage("least squares", len(known))
    return least_squares(pipeline, known, chosen, progress=advance, **settings)


def _read_reference(
    path: Path | None, shrink: float | None, compensate: str, max_rejected: int
) -> "PromptSet | NeuronStatistics":
    """The reference prompts or statistics, where they are needed."""
    from memfast.prompts import PromptSet, open_list
    from memfast.statistics import NeuronStatistics

    needed = "--shrink" if shrink is not None else "--compensate least-squares"
    if path is None:
        if shrink is None and compensate != "least_squares":
            return PromptSet.of([])
        raise InputError(f"--reference: {needed} needs reference prompts")
    if path.suffix != ".safetensors":
        return open_list(path, max_rejected=max_rejected)
    if compensate == "least_squares":
        raise InputError(f"--reference {path}: least-squares needs prompts, not statistics")
    return NeuronStatistics.load(path)
