"""Detection on the demo model: every probe and score, by rows spent, on captions that replicate.

    python benchmarks/detection.py --out detection.json [--noises 3] [--model demo]

Held-out captions are dealt by duplicate group into reference (baselines and standardisation),
validation (the default is chosen there) and test; memorized captions into validation and test.
A memorized caption replicates when, over two seeds, half of its images have SSIM above 0.6 with
its training image. Figures are means over noises of single-noise figures, with a 95 % bootstrap
interval of whole groups, and then those of the score averaged over the noises.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memfast.auditing.detection import auc, figures, rate_at
from memfast.auditing.looking.probes import PROBES, Look, Prediction, Scene, Unit
from memfast.auditing.looking.scores import (
    SCORES,
    Baseline,
    available,
    discriminant_direction,
)
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Worker, score_looks
from memfast.auditing.verifying import compare
from memfast.demo import DATA
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import load_pipeline
from memfast.prompts import Prompt, read_prompts

UNIT = 32
PATHS = ((0.5,), (0.3,), (0.2,), (0.1,), (0.05,), (0.5, 0.2), (0.2, 0.05))
WALKS = (2, 3, 4, 5, 6, 7)  # steps; 2 rows each but the first
Way = tuple[float | str, ...]  # a path, or "walk" and a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noises", type=int, default=3)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--singles", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(arguments.model)
    sets = {
        name: list(read_prompts(arguments.data / f"{name}.jsonl"))
        for name in ("memorized", "heldout", "singles")
    }
    sets["singles"] = sets["singles"][: arguments.singles]
    prompts = [prompt for found in sets.values() for prompt in found]
    replicating = replicates(pipeline, sets["memorized"])
    part = deal(sets, replicating)
    part["singles"] = np.arange(len(prompts) - len(sets["singles"]), len(prompts))
    part |= by_level(sets["memorized"], part)
    scores = every_score(pipeline, prompts, part, arguments.noises)
    groups = [prompt.group for prompt in prompts]
    rows = [row(name, values, part, groups) for name, values in scores.items()]
    report = {
        "model": arguments.model,
        "noises": arguments.noises,
        "replicating": {
            level: f"{a} of {b}" for level, (a, b) in shares(sets, replicating).items()
        },
        "parts": {name: len(found) for name, found in part.items()},
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=1))
    np.savez(
        arguments.out.with_suffix(".npz"), **{k.replace("/", "|"): v for k, v in scores.items()}
    )
    print(table(rows))
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1))


def replicates(pipeline: Any, memorized: list[Prompt]) -> np.ndarray:
    """Which memorized captions come back: half of two seeds' images have SSIM above 0.6."""
    from memfast.measuring.distances import ssim

    driver = driver_of(pipeline)
    embeddings = driver.encode([prompt.text for prompt in memorized])
    ids = [prompt.id for prompt in memorized]
    made = [driver.generate(embeddings, ids, seed) for seed in (0, 1)]
    rows = [{"rank": 0, "id": p.id, "prompt": p.text, "image": p.image or ""} for p in memorized]
    found = []
    for number, row in enumerate(rows):
        images = torch.stack([images[number] for images in made])
        own = compare(row, images).own
        if own is None:
            raise SystemExit(f"{row['id']} has no training image")
        found.append(float((ssim(images, own.expand_as(images)) > 0.6).float().mean()) >= 0.5)
    return np.array(found)


def deal(sets: dict[str, list[Prompt]], replicating: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of each part; a group is never in two."""
    random = np.random.default_rng(0)
    first = len(sets["memorized"])

    def split(rows: list[Prompt], offset: int, shares: list[float]) -> list[np.ndarray]:
        groups = list(dict.fromkeys(prompt.group for prompt in rows))
        order = {groups[g]: n / len(groups) for n, g in enumerate(random.permutation(len(groups)))}
        place = np.array([order[prompt.group] for prompt in rows])
        edges = np.cumsum([0.0, *shares])
        return [offset + np.flatnonzero((place >= a) & (place < b)) for a, b in pairwise(edges)]

    reference, held_validation, held_test = split(sets["heldout"], first, [0.25, 0.25, 0.5])
    memorized = split(sets["memorized"], 0, [1 / 3, 2 / 3])
    keep = [rows[replicating[rows]] for rows in memorized]
    return {
        "reference": reference,
        "negative/validation": held_validation,
        "negative/test": held_test,
        "positive/validation": keep[0],
        "positive/test": keep[1],
        "examples": memorized[0],
    }


def by_level(memorized: list[Prompt], part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All memorized captions outside validation by duplication, whether they replicate or not."""
    levels = sorted({prompt.label or "" for prompt in memorized})
    return {
        f"level/{level}": np.array(
            [
                n
                for n, prompt in enumerate(memorized)
                if prompt.label == level and n not in set(part["examples"].tolist())
            ]
        )
        for level in levels
    }


def shares(sets: dict[str, list[Prompt]], replicating: np.ndarray) -> dict[str, tuple[int, int]]:
    """(replicating, all) memorized captions by level."""
    found: dict[str, list[bool]] = {}
    for prompt, yes in zip(sets["memorized"], replicating, strict=True):
        found.setdefault(prompt.label or "", []).append(bool(yes))
    return {level: (sum(values), len(values)) for level, values in sorted(found.items())}


def every_score(
    pipeline: Any, prompts: list[Prompt], part: dict[str, np.ndarray], noises: int
) -> dict[str, np.ndarray]:
    """[prompts, noises] of "probe path/score/rows", with "combined"."""
    texts = [prompt.text for prompt in prompts]
    seen: list[list[dict[Way, Look]]] = []  # by unit, noise and path
    settings = Settings(noises=noises, unit=UNIT, threads=1, walk_steps=max(WALKS))
    with Worker(pipeline, settings) as worker:
        for start in range(0, len(texts), UNIT):
            batch = texts[start : start + UNIT]
            padded = [*batch, *[batch[-1]] * (UNIT - len(batch))]
            unit = Unit(worker.driver.encode(padded), len(batch))
            seen.append([tree(scene, unit) for scene in worker.scenes])
            print(f"{start + len(batch)} of {len(texts)} prompts", flush=True)
    result: dict[str, np.ndarray] = {}
    for where, cost, view in views():
        columns = [score_set([view(unit[noise]) for unit in seen], part) for noise in range(noises)]
        for name in columns[0]:
            result[f"{where}/{name}/{cost}"] = np.stack([found[name] for found in columns], 1)
    return result


@torch.no_grad()
def tree(scene: Scene, unit: Unit) -> dict[Way, Look]:
    """The looks at the end of every path and of its beginnings, with and without the prompts, and
    those of every step of the longest walk."""
    found: dict[Way, Look] = {(): replace(scene.first(unit), moments=None)}
    for step, look in enumerate(PROBES["walk"].looks(scene, unit)[1:], 2):
        found["walk", step] = look
    for path in sorted({p[:end] for p in PATHS for end in range(1, len(p) + 1)}):
        level = round(path[-1] * scene.driver.training_steps)
        latents = scene.step(found[path[:-1]].prediction, level)
        found[path] = scene.both(latents, level, unit.embeddings)
    return {path: trim(look, unit.rows) for path, look in found.items()}


def views() -> Iterator[tuple[str, int, Callable[[dict[Way, Look]], list[Look]]]]:
    """(name, rows, looks of a tree) of every probe."""
    yield "first", 1, lambda found: [found[()]]
    for path in PATHS:
        ways = [path[:end] for end in range(len(path) + 1)]
        name = ", ".join(map(str, path))

        def settle(found, ways=ways):
            return [found[()], *(replace(found[way], empty=None) for way in ways[1:])]

        def jump(found, ways=ways):
            return [*settle(found, ways)[:-1], found[ways[-1]]]

        yield f"settle {name}", 1 + len(path), settle
        yield f"jump {name}", 2 + len(path), jump
    for steps in WALKS:

        def walk(found, steps=steps):
            return [found[()], *(found["walk", step] for step in range(2, steps + 1))]

        yield f"walk {steps}", 2 * steps - 1, walk


def score_set(looks: list[list[Look]], part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every score of all prompts under one noise, learnt from the reference alone."""
    norms = torch.cat([unit[-1].norms for unit in looks])
    reference = norms[part["reference"]]
    baseline = Baseline(reference.mean(0), reference.std(0))
    direction = discriminant_direction(
        baseline.standardise(norms[part["examples"]]), baseline.standardise(reference)
    )
    baseline = replace(baseline, direction=direction)
    names = available(len(looks[0]), subspace=False, memorized=True)
    table = torch.cat([score_looks(unit, names, baseline) for unit in looks]).numpy()
    scores = {name: table[:, column] for column, name in enumerate(names)}
    for name in names:
        if SCORES[name].two_sided:
            own = scores[name][part["reference"]]
            scores[name] = ((scores[name] - own.mean()) / own.std(ddof=1)) ** 2
    unlabelled = [name for name in names if SCORES[name].needs != "memorized prompts"]
    units = [in_thresholds(scores[n], scores[n][part["reference"]]) for n in unlabelled]
    return scores | {"combined": np.max(units, axis=0)}


def in_thresholds(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """As the audit combines: 0 at the reference's median, 1 at its 1 % threshold."""
    edge = np.sort(reference)[::-1][int(0.01 * len(reference))]
    return (values - np.median(reference)) / (edge - np.median(reference))


def trim(look: Look, size: int) -> Look:
    """The look without padding."""

    def cut(prediction: Prediction | None) -> Prediction | None:
        return prediction and Prediction(prediction.clean[:size], prediction.noise[:size])

    return replace(
        look,
        prediction=cut(look.prediction),
        norms=look.norms[:size],
        empty=look.empty if look.empty and len(look.empty.clean) == 1 else cut(look.empty),
    )


def row(
    name: str, values: np.ndarray, part: dict[str, np.ndarray], groups: list[str | None]
) -> dict[str, Any]:
    """All figures of one probe and score."""
    probe, score, cost = name.split("/")
    negative, positive = part["negative/test"], part["positive/test"]
    single = [values[:, noise] for noise in range(values.shape[1])]
    mean = values.mean(1)
    where = [[groups[n] for n in rows] for rows in (positive, negative)]
    result: dict[str, Any] = {"probe": probe, "score": score, "rows": int(cost)}
    result["validation"] = float(
        np.mean(
            [auc(v[part["positive/validation"]], v[part["negative/validation"]]) for v in single]
        )
    )
    result["auc"] = [auc(v[positive], v[negative]) for v in single]
    result["tpr_at_1_percent"] = [rate_at(v[positive], v[negative], 0.01) for v in single]
    result["auc_singles"] = [auc(v[positive], v[part["singles"]]) for v in single]
    result["one_noise"] = {
        k: asdict(v) for k, v in figures(single[0][positive], single[0][negative], *where).items()
    }
    result["all_noises"] = {
        k: asdict(v) for k, v in figures(mean[positive], mean[negative], *where).items()
    }
    result["levels"] = {
        level.removeprefix("level/"): [
            float(np.mean([auc(v[rows], v[negative]) for v in single])),
            float(np.mean([rate_at(v[rows], v[negative], 0.01) for v in single])),
        ]
        for level, rows in part.items()
        if level.startswith("level/") and len(rows)
    }
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over single noises, then all noises together."""
    lines = [
        "| rows | probe | score | AUC | TPR at 1 % | all noises | AUC against singles | by level |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for r in sorted(rows, key=lambda r: (r["rows"], -np.mean(r["auc"]))):
        interval, rate = r["one_noise"]["auc"], r["one_noise"]["tpr_at_1_percent"]
        both = r["all_noises"]
        levels = ", ".join(f"{k} {a:.3f} ({t:.2f})" for k, (a, t) in r["levels"].items())
        lines.append(
            f"| {r['rows']} | {r['probe']} | {r['score']} | {np.mean(r['auc']):.4f} "
            f"[{interval['low']:.3f}, {interval['high']:.3f}] "
            f"| {np.mean(r['tpr_at_1_percent']):.2f} [{rate['low']:.2f}, {rate['high']:.2f}] "
            f"| {both['auc']['value']:.4f} ({both['tpr_at_1_percent']['value']:.2f}) "
            f"| {np.mean(r['auc_singles']):.4f} | {levels} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
