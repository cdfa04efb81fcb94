"""audit: open or resume a folder, calibrate, compute what is missing."""

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from memfast.auditing.calibration import Calibration, calibrate
from memfast.auditing.engines import ENGINES
from memfast.auditing.inputs import (
    Audited,
    Examples,
    Prompts,
    located_neurons,
    mask_digest,
    sample,
)
from memfast.auditing.job import Job, open_model
from memfast.auditing.judging.references import COMPARED, Likeness
from memfast.auditing.looking.combining import combinations
from memfast.auditing.looking.gating import gated_names
from memfast.auditing.looking.probes import PROBES
from memfast.auditing.looking.scores import available
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Block, usual_unit
from memfast.auditing.outcome import Outcome, finish, second_look
from memfast.auditing.storing import manifest
from memfast.auditing.storing.blocks import Blocks
from memfast.blocks.families import ffn_sites
from memfast.errors import InputError, writing
from memfast.files import Run, first_difference, try_out
from memfast.measuring.index import ImageIndex
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.identity import fingerprint, made_on
from memfast.precision import name_of
from memfast.processes.stopping import keeping
from memfast.progress import Stage, stages
from memfast.selection import Subspace

BYTES = 36  # of a block, for each neuron: see Moments
_log = logging.getLogger("memfast")


def audit(
    model: DiffusionPipeline | str | Path,
    prompts: Prompts,
    out: str | Path,
    *,
    reference: Prompts | None = None,
    memorized: Prompts | None = None,
    subspace: Subspace | None = None,
    settings: Settings | None = None,
    score: str = "distance",
    fpr: float = 0.01,
    column: str | None = None,
    max_rejected: int = 1000,
    engine: str = "local",
    shard: tuple[int, int] | None = None,
    batch_size: int | None = None,
    attention: str = "auto",
    workers: int = 1,
    address: str | None = None,
    verify: float = 0.0,
    verify_seeds: int = 4,
    index: ImageIndex | None = None,
    overwrite: bool = False,
    progress: bool | Stage = False,
) -> Outcome | None:
    """Score every prompt for memorization, in blocks; the same call resumes an unfinished audit.

    model: a pipeline, or its name (which engines with several workers need). prompts: a file or a
    set. out: the audit's folder. reference: prompts of the same kind that the model does not
    memorize, for baselines and for the threshold, which a share `fpr` of them exceeds; without it
    the threshold rests on the list itself (see `judging.footing`). memorized: examples for a
    discriminant. subspace: neurons that get a score of their own. score: the one that decides.
    shard: (I, N), every N-th block from block I on; then the results are left to `merge`, and None
    is returned. verify: the share of all texts, the most suspicious, from which `verify_seeds`
    images each are made and compared; with an index, with all its training images too. progress:
    True shows bars; a function of a label and a total opens each stage and returns what is told of
    units done.
    Raises InputError for what cannot be used, before anything is written.
    """
    out, stage = Path(out), stages(progress)
    settings = settings or Settings()
    if not 0 <= verify <= 1 or verify_seeds < 2:
        raise InputError(f"verify {verify} with {verify_seeds} seeds: 0 to 1, with 2 or more")
    names = _check(settings, score, fpr, engine, shard, subspace, memorized)
    name = str(model) if isinstance(model, str | Path) else None
    if name is None and engine != "local":
        raise InputError(f"model: engine {engine!r} loads it elsewhere; give its folder or hub id")
    try_out(out / manifest.NAME)
    audited = Audited.open(prompts, column, max_rejected)
    examples = Examples.of(reference, memorized, audited)
    pipeline: Any = open_model(name, settings, attention) if name else model
    driver = driver_of(pipeline, **settings.request)
    known = None if overwrite else manifest.unit_of(out)
    settings = _as_loaded(settings, driver, known)
    sites = ffn_sites(driver.model)
    located = None if subspace is None else located_neurons(subspace, sites)
    identity = {
        "model": fingerprint(driver.model),
        "settings": settings.as_dict(),
        "scores": names,
        "prompts": audited.index.digest,
        "texts": audited.index.texts,
        **examples.digests(),
        "subspace": mask_digest(located),
    }
    job = Job(
        settings,
        model=name,
        pipeline=pipeline,
        batch_size=batch_size,
        attention=attention,
        workers=workers,
        address=address,
    )
    with manifest.opened(out, shared=shard is not None and not overwrite) as run:
        run.begin(identity, overwrite)
        run.ledger.add(manifest.CALIBRATION, *manifest.RESULTS)
        calibration = _calibration(run, job, names, examples, located, stage)
        job = replace(job, calibration=calibration)
        run.update(
            prompts={"path": audited.path and _relative(audited.path, out), "column": column},
            inputs=examples.told,
            reference=_about(driver, examples, audited, calibration, score, fpr),
            memorized=len(examples.memorized),
            decision={"score": score, "fpr": fpr},
        )
        blocks = manifest.blocks(run, calibration.digest)
        machine = made_on(driver.model) | {"threads": settings.threads}
        _tell_of_other_machines(blocks, machine)
        first, step = shard or (0, 1)
        missing = blocks.missing(range(first, blocks.count, step))
        try_out(blocks.folder, len(missing) * BYTES * sum(sites.values()))
        speed = _compute(run, job, blocks, missing, audited, engine, stage)
        if shard is not None:
            return None
        outcome = finish(run, audited, calibration, speed)
        if not verify:
            return outcome
        return second_look(
            run, outcome, audited, pipeline, settings, verify, verify_seeds, stage, index
        )


def _relative(path: Path, out: Path) -> str:
    """What a file is called from the audit's folder."""
    return os.path.relpath(path.resolve(), out.resolve())


def _check(
    settings: Settings,
    score: str,
    fpr: float,
    engine: str,
    shard: tuple[int, int] | None,
    subspace: Subspace | None,
    memorized: Prompts | None,
) -> list[str]:
    """The names of the scores that there will be; raises InputError for settings that are none."""
    if settings.probe not in PROBES:
        raise InputError(f"probe {settings.probe!r}: must be one of {', '.join(PROBES)}")
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}: must be one of {', '.join(ENGINES)}")
    if not 0 < fpr < 1:
        raise InputError(f"fpr {fpr}: must lie between 0 and 1")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard {shard[0]}/{shard[1]}: is I/N with I from 0 to N-1")
    probe = PROBES[settings.probe]
    levels = probe.parts(settings)
    names = (
        available(probe.looks_made(settings), subspace is not None, memorized is not None, levels)
        if settings.adaptive is None
        else gated_names(settings)
    )
    every = (*names, *combinations(names))
    if score not in every:
        raise InputError(f"score {score!r}: must be one of {', '.join(every)} here")
    return names


def _as_loaded(settings: Settings, driver: Driver, unit: int | None) -> Settings:
    """The settings with the pipeline's own schedule, the dtype, device and number of threads that
    are in use, and where they name none the `unit` that was begun with, or the usual one."""
    parameter = next(driver.model.parameters())
    schedule = driver.schedule()
    return replace(
        settings,
        **schedule.as_dict(),
        walk_steps=min(settings.walk_steps, schedule.num_inference_steps),
        dtype=name_of(parameter.dtype),
        device=str(parameter.device),
        threads=settings.threads or torch.get_num_threads(),
        unit=settings.unit or unit or usual_unit(driver),
    )


def _tell_of_other_machines(blocks: Blocks, now: dict[str, Any]) -> None:
    """Warn where what is there was made on another machine than the rest will be."""
    for machine in blocks.made_on():
        made = machine.pop("blocks")
        if machine != now:
            _log.warning(
                f"{blocks.folder}: {made} blocks are of another machine "
                f"({first_difference(machine, now)}): their scores differ in the last bits at most"
            )


def _calibration(
    run: Run, job: Job, names: list[str], examples: Examples, located: Any, stage: Stage
) -> Calibration:
    """The folder's calibration, made now if it is not there or cannot be used."""
    path = run.folder / manifest.CALIBRATION
    if path.exists():
        try:
            return Calibration.load(path, run.hash)
        except InputError as error:
            _log.warning("%s; it is made again", error)
            path.unlink()
    with job.worker() as worker:
        texts = len(examples.reference) + len(examples.memorized)
        made = calibrate(
            worker, names, examples, located=located, progress=stage("calibrating", texts)
        )
    made.save(path, run.hash)
    return Calibration.load(path, run.hash)


def _about(
    driver: Driver,
    examples: Examples,
    audited: Audited,
    calibration: Calibration,
    score: str,
    fpr: float,
) -> dict[str, Any]:
    """What a manifest says of the references, and whether they are of the list's kind."""
    found = {"prompts": len(examples.reference), "own": examples.own}
    if examples.own:
        return found
    listed, scores = sample(audited, COMPARED), calibration.column(score).numpy()
    texts, references = ([p.text for p in part] for part in (listed, examples.reference))
    likeness = Likeness.of(driver, texts, references, scores, fpr)
    return found | {"likeness": likeness.as_dict()}


def _compute(
    run: Run,
    job: Job,
    blocks: Blocks,
    missing: list[int],
    audited: Audited,
    engine: str,
    stage: Stage,
) -> dict[str, int | float]:
    """Compute the missing blocks; returns how fast that went, {} if there were none."""
    if not missing:
        return {}
    run.ledger.add(*(f"{blocks.folder.name}/{blocks.path(number).name}" for number in missing))
    with writing(blocks.folder):
        blocks.folder.mkdir(exist_ok=True)
    advance = stage("auditing", sum(blocks.size(number) for number in missing))
    started, texts = time.perf_counter(), 0

    def done(number: int, block: Block) -> None:
        nonlocal texts
        blocks.write(number, block)
        texts += len(block.truncated)
        advance(len(block.truncated))

    with keeping(lambda: f"{blocks.written} of {blocks.count} blocks"):
        ENGINES[engine](job, blocks.prompts(audited.prompts, audited.index, set(missing)), done)
    seconds = time.perf_counter() - started
    speed: dict[str, int | float] = {
        "texts_computed": texts,
        "seconds": round(seconds, 3),
        "texts_per_second": round(texts / seconds, 3),
    }
    if job.settings.adaptive is None:
        rows = PROBES[job.settings.probe].rows(job.settings) * job.settings.noises
        speed["denoiser_rows_per_second"] = round(texts * rows / seconds, 3)
    return speed
