"""audit: open or resume a folder, calibrate, compute what is missing. merge: write the results."""

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
from memfast.auditing.looking.probes import PROBES
from memfast.auditing.looking.scores import COMBINED, available
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Block
from memfast.auditing.outcome import Outcome, finish, second_look
from memfast.auditing.storing import manifest
from memfast.auditing.storing.blocks import Blocks
from memfast.blocks.families import ffn_sites
from memfast.errors import InputError
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.identity import fingerprint, versions
from memfast.progress import Stage, silent
from memfast.selection import Subspace


def audit(
    model: DiffusionPipeline | str | Path,
    prompts: Prompts,
    out: str | Path,
    *,
    reference: Prompts | None = None,
    memorized: Prompts | None = None,
    subspace: Subspace | None = None,
    settings: Settings | None = None,
    score: str = "relative",
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
    overwrite: bool = False,
    stage: Stage = silent,
) -> Outcome | None:
    """Score every prompt for memorization, in blocks; the same call resumes an unfinished audit.

    model: a pipeline, or its name (which engines with several workers need). prompts: a file or a
    set. out: the audit's folder. reference: prompts of the same kind that the model does not
    memorize, for baselines and for the threshold, which a share `fpr` of them exceeds; without it
    the threshold rests on the list itself (see `judging.footing`). memorized: examples for a
    discriminant. subspace: neurons that get a score of their own. score: the one that decides.
    shard: (I, N), every N-th block from block I on; then the results are left to `merge`, and None
    is returned. verify: the share of all texts, the most suspicious, from which `verify_seeds`
    images each are made and compared.
    Raises InputError for what cannot be used, before anything is written.
    """
    out = Path(out)
    settings = settings or Settings()
    if not 0 <= verify <= 1 or verify_seeds < 2:
        raise InputError(f"verify {verify} with {verify_seeds} seeds: 0 to 1, with 2 or more")
    names = _check(settings, score, fpr, engine, shard, subspace, memorized)
    name = str(model) if isinstance(model, str | Path) else None
    if name is None and engine != "local":
        raise InputError(f"model: engine {engine!r} loads it elsewhere; give its folder or hub id")
    audited = Audited.open(prompts, column, max_rejected)
    examples = Examples.of(reference, memorized, audited.prompts)
    pipeline: Any = open_model(name, settings, attention) if name else model
    driver = driver_of(pipeline)
    settings = _as_loaded(settings, driver)
    located = None if subspace is None else located_neurons(subspace, ffn_sites(driver.model))
    identity = {
        "model": fingerprint(driver.model),
        "settings": settings.as_dict(),
        "scores": names,
        "prompts": audited.index.digest,
        "texts": audited.index.texts,
        **examples.digests(),
        "subspace": mask_digest(located),
        "attention": attention,
        "versions": versions(),
    }
    manifest.open_folder(out, identity, overwrite)
    audited.rejected.write(out / "rejected.jsonl")

    job = Job(
        settings,
        model=name,
        pipeline=pipeline,
        batch_size=batch_size,
        attention=attention,
        workers=workers,
        address=address,
    )
    calibration = _calibration(out, job, names, examples, located, stage)
    job = replace(job, calibration=calibration)
    manifest.update(
        out,
        prompts={"path": audited.path, "column": audited.column},
        reference=_about(driver, examples, audited, calibration, score, fpr),
        memorized=len(examples.memorized),
        decision={"score": score, "fpr": fpr},
    )
    blocks = manifest.blocks(out)
    speed = _compute(job, blocks, audited, engine, shard or (0, 1), stage)
    if shard is not None:
        return None
    outcome = finish(out, audited, calibration, speed)
    if not verify:
        return outcome
    return second_look(
        outcome,
        audited,
        pipeline,
        settings,
        verify,
        verify_seeds,
        stage,
    )


def merge(out: str | Path, prompts: Prompts | None = None) -> Outcome:
    """Write the results of an audit whose blocks were computed in shards.

    prompts: the audited prompts, where they came from no file or the file has moved.
    Raises InputError while blocks are missing, and for prompts other than the audited ones.
    """
    out = Path(out)
    found = manifest.read(out)
    source = prompts if prompts is not None else found["prompts"]["path"]
    if source is None:
        raise InputError(f"{out}: its prompts came from no file; pass them")
    audited = Audited.open(source, found["prompts"]["column"], max_rejected=2**62)
    if audited.index.digest != found["identity"]["prompts"]:
        raise InputError(f"{source}: its prompts are not those that {out} was made with")
    missing = manifest.blocks(out).missing()
    if missing:
        raise InputError(
            f"{out}: {len(missing)} blocks are missing (the first is {missing[0]}): "
            "run the same audit again, without --shard or with the missing ones"
        )
    return finish(out, audited, Calibration.load(out / manifest.CALIBRATION))


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
    looks = PROBES[settings.probe].looks_made(settings)
    names = available(looks, subspace is not None, memorized is not None)
    if score not in (*names, COMBINED):
        raise InputError(f"score {score!r}: must be one of {', '.join((*names, COMBINED))} here")
    return names


def _as_loaded(settings: Settings, driver: Driver) -> Settings:
    """The settings with the pipeline's own schedule, and the dtype, device and number of threads
    that are in use."""
    parameter = next(driver.model.parameters())
    schedule = driver.schedule(
        num_inference_steps=settings.num_inference_steps, guidance_scale=settings.guidance_scale
    )
    return replace(
        settings,
        **schedule.as_dict(),
        walk_steps=min(settings.walk_steps, schedule.num_inference_steps),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        threads=settings.threads or torch.get_num_threads(),
    )


def _calibration(
    out: Path, job: Job, names: list[str], examples: Examples, located: Any, stage: Stage
) -> Calibration:
    """The folder's calibration, made now if it is not there."""
    path = out / manifest.CALIBRATION
    if not path.exists():
        with job.worker() as worker:
            texts = len(examples.reference) + len(examples.memorized)
            made = calibrate(
                worker, names, examples, located=located, progress=stage("calibrating", texts)
            )
        made.save(path)
    return Calibration.load(path)


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
    listed, scores = sample(audited.prompts, COMPARED), calibration.column(score).numpy()
    likeness = Likeness.of(driver, listed, examples.reference, scores, fpr)
    return found | {"likeness": likeness.as_dict()}


def _compute(
    job: Job, blocks: Blocks, audited: Audited, engine: str, shard: tuple[int, int], stage: Stage
) -> dict[str, int | float]:
    """Compute the shard's missing blocks; returns how fast that went, {} if there were none."""
    missing = [number for number in blocks.missing() if number % shard[1] == shard[0]]
    if not missing:
        return {}
    advance = stage("auditing", sum(blocks.size(number) for number in missing))
    started, texts = time.perf_counter(), 0

    def done(number: int, block: Block) -> None:
        nonlocal texts
        blocks.write(number, block)
        texts += len(block.truncated)
        advance(len(block.truncated))

    ENGINES[engine](job, blocks.texts(audited.prompts, audited.index, set(missing)), done)
    seconds = time.perf_counter() - started
    rows = PROBES[job.settings.probe].rows(job.settings) * job.settings.noises
    return {
        "texts_computed": texts,
        "seconds": round(seconds, 3),
        "texts_per_second": round(texts / seconds, 3),
        "denoiser_rows_per_second": round(texts * rows / seconds, 3),
    }
