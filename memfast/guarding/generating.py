"""Images of a prompt list, under guard or not; the same call goes on where it ended."""

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from memfast.errors import InputError, writing
from memfast.files import Run, atomic_write, to_json
from memfast.guarding.guard import Guard
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.identity import fingerprint, schedule_of
from memfast.processes.stopping import keeping
from memfast.progress import Stage, stages
from memfast.prompts import Prompt, PromptSet

KIND, FORMAT, RECORD, LINES = "generation", 1, "manifest.json", "images.jsonl"
AT_ONCE = 16  # images


def generate(
    pipeline: DiffusionPipeline,
    prompts: PromptSet,
    out: str | Path,
    *,
    guard: Guard | None = None,
    seeds: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    overwrite: bool = False,
    progress: bool | Stage = False,
    **request: Any,
) -> dict[str, Any]:
    """Make `seeds` images of every prompt in the folder `out`: `images/LINE-SEED.png` and a line of
    `images.jsonl` each. An image depends on its prompt's id and seed alone. guard: attached to this
    pipeline. progress: as `audit`'s. request: the run, where not the pipeline's own.

    Returns what was counted. Raises InputError for a policy `refuse`, which would end a batch, and
    for a folder of another run.
    """
    if guard is not None and "refuse" in guard.policies:
        raise InputError("policy refuse: would end the others of its batch too; take blank")
    driver = driver_of(pipeline, **request)
    schedule, total = driver.schedule(), len(prompts) * seeds
    identity = {
        "model": fingerprint(driver.model),
        "prompts": prompts.digest,
        "run": {**schedule.as_dict(), **driver.asked_size, "scheduler": schedule_of(pipeline)},
        "seeds": [seed, seeds],
        "guard": guard and guard.told,
    }
    with Run.opened(out, KIND, FORMAT, RECORD) as run:
        run.begin(identity, overwrite)
        run.ledger.add(LINES)
        (run.folder / "images").mkdir(exist_ok=True)
        done = _done(run.folder / LINES)
        asked = ((p, n) for p in prompts for n in range(seed, seed + seeds))
        missing = (item for item in enumerate(asked) if item[0] not in done)
        advance, made = stages(progress)("generating", total - len(done)), len(done)
        size = batch_size or min(AT_ONCE, driver.portion(AT_ONCE, rows=2).rows)
        with keeping(lambda: f"{made} of {total} images"):
            while batch := [*islice(missing, size)]:
                _make(run, driver, [item for _, item in batch], [n for n, _ in batch], guard)
                made += len(batch)
                advance(len(batch))
        return counted(_lines(run.folder / LINES))


def counted(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many images there are, flagged ones and those withheld; and of each policy."""
    flagged = [line for line in lines if line.get("flagged")]
    policies = dict.fromkeys(line["policy"] for line in flagged)
    return {
        "images": len(lines),
        "flagged": len(flagged),
        "withheld": sum(bool(line.get("withheld")) for line in lines),
        "by_policy": {n: sum(line["policy"] == n for line in flagged) for n in policies},
    }


def _make(
    run: Run,
    driver: Driver,
    asked: Sequence[tuple[Prompt, int]],
    numbers: Sequence[int],
    guard: Guard | None,
) -> None:
    """One batch: its pictures, then its lines."""
    sources = [torch.Generator().manual_seed(prompt.noise_seed(seed)) for prompt, seed in asked]
    call = driver.call(len(asked), driver.schedule())
    made = driver.pipeline(
        prompt=[prompt.text for prompt, _ in asked],
        latents=driver.noise_of(sources),
        generator=sources,
        output_type="pil",
        **call,
    )
    ending = "webp" if isinstance(made[0][0], list) else "png"
    names = [
        f"images/{prompt.line or number:06d}-{seed}.{ending}"
        for number, (prompt, seed) in zip(numbers, asked, strict=True)
    ]
    run.ledger.add(*names)
    lines = []
    for place, (prompt, seed) in enumerate(asked):
        _write(run.folder / names[place], made[0][place])
        line: dict[str, Any] = {"number": numbers[place], "id": prompt.id, "prompt": prompt.text}
        line |= {"seed": seed, "image": names[place]}
        if guard is not None:
            told = guard.records[place]
            line |= {name: value for name, value in vars(told).items() if name != "prompt"}
        lines.append(line)
    with writing(run.folder), open(run.folder / LINES, "a", encoding="utf-8") as file:
        file.writelines(to_json(line) + "\n" for line in lines)


def _write(path: Path, image: Any) -> None:
    """A picture, or the frames of a video as an animation."""
    first, *rest = image if isinstance(image, list) else [image]
    how = {"save_all": True, "append_images": rest} if rest else {}
    kind = path.suffix[1:].upper()
    atomic_write(path, lambda unfinished: first.save(unfinished, format=kind, **how))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may end in half a one."""
    lines: list[dict[str, Any]] = []
    with suppress(ValueError):
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            lines.append(json.loads(line))
    return lines


def _done(path: Path) -> set[int]:
    """The numbers of the images that are there; a half-written last line is cut off."""
    lines = _lines(path)
    if path.exists():
        whole = "".join(to_json(line) + "\n" for line in lines)
        atomic_write(path, lambda file: file.write_text(whole, encoding="utf-8"))
    return {line["number"] for line in lines}
