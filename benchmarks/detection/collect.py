"""Look at every caption of a model once, for all probes, scores and peers together."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.detection.columns import Columns
from benchmarks.detection.peers import alignment, attention_entropy, curvature, last_step, updates
from memfast.auditing.looking.probes import PROBES, Look, Prediction, Scene, Unit
from memfast.auditing.looking.scores import Baseline, discriminant_direction
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Worker
from memfast.demo import DATA
from memfast.images import read_image
from memfast.measuring.similarity import METRICS, Comparison
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import load_pipeline
from memfast.prompts import Prompt, read_prompts

LEVELS = (0.6, 0.4, 0.3, 0.2, 0.1, 0.05)
SEEDS = 3
NEURONS = ("energy", "located", "discriminant")
LOCATED = 0.02  # share of the neurons in a located subspace

Found = dict[str, Tensor]


def collect(
    data: Path,
    *,
    noises: int,
    walk: int,
    peers: bool,
    sampling: bool,
    singles: int,
    foreign: list[Path],
    device: str,
    unit: int,
) -> Columns:
    """The columns of the model in `data`/pipeline. walk: steps; 0 for none."""
    pipeline = load_pipeline(data / "pipeline", device=device)
    prompts, columns = captions(data, singles, foreign)
    columns.replicates[:] = replicates(pipeline, data, prompts)
    schedule = driver_of(pipeline).schedule().as_dict()
    settings = Settings(
        noises=noises,
        unit=unit,
        threads=1,
        walk_steps=max(walk, 1),
        device=device,
        graphs=False,  # hooks must see every pass
        **schedule,
    )
    with Worker(pipeline, settings) as worker, torch.no_grad():
        for noise, scene in enumerate(worker.scenes):
            seen = [look_at(scene, unit, walk, peers, sampling) for unit in units(worker, prompts)]
            found = {name: torch.cat([part[name][0] for part in seen]) for name in seen[0]}
            cost = {name: rows for name, (_, rows) in seen[0].items()}
            for name, value in columns_of(found, cost, columns).items():
                table = columns.values.setdefault(name, np.empty((len(prompts), noises)))
                table[:, noise] = value
            columns.rows |= cost
    for name in columns.values:
        kind, _, where = name.partition("@")
        if kind in NEURONS:
            columns.rows[name] = columns.rows[f"norms@{where}"]
    return columns


def captions(data: Path, singles: int, foreign: list[Path]) -> tuple[list[Prompt], Columns]:
    """All captions, and their columns without any value."""
    sets = {name: list(read_prompts(data / f"{name}.jsonl")) for name in ("memorized", "heldout")}
    sets["single"] = list(read_prompts(data / "singles.jsonl"))[:singles]
    sets["foreign"] = [prompt for path in foreign for prompt in list(read_prompts(path))[:singles]]
    prompts = [prompt for found in sets.values() for prompt in found]
    kind = np.array([name for name, found in sets.items() for _ in found])
    group = np.array([prompt.group or prompt.id for prompt in prompts])
    level = np.array([prompt.label or "" for prompt in prompts])
    return prompts, Columns(
        "demo" if data == DATA else data.name,
        kind,
        level,
        group,
        np.zeros(len(prompts), bool),
        drawn(kind == "heldout", group, 0.5),
        drawn(kind == "memorized", group, 1 / 3),
    )


def drawn(among: NDArray[np.bool_], group: NDArray[np.str_], share: float) -> NDArray[np.bool_]:
    """That share of the groups, whole."""
    names = np.unique(group[among])
    random = np.random.default_rng(0)
    chosen = random.permutation(names)[: round(share * len(names))]
    return among & np.isin(group, chosen)


def replicates(pipeline: Any, data: Path, prompts: list[Prompt]) -> NDArray[np.bool_]:
    """Whether half of a memorized caption's images are copies, by L2 ratio and by SSIM."""
    driver, found = driver_of(pipeline), np.zeros(len(prompts), bool)
    rows = [n for n, prompt in enumerate(prompts) if prompt.id.startswith("memorized")]
    own = torch.stack([pixels(Path(prompts[n].image or "")) for n in rows])
    corpus = torch.stack(
        [pixels(path) for path in sorted((data / "images").iterdir()) if "heldout" not in path.name]
    )
    told, ids = driver.encode([prompts[n].text for n in rows]), [prompts[n].id for n in rows]
    copies = []
    for seed in range(SEEDS):
        pair = Comparison(driver.generate(told, ids, seed), own, corpus)
        both = [
            METRICS[name].copies(METRICS[name].score(pair, None)) for name in ("l2_ratio", "ssim")
        ]
        copies.append(both[0] & both[1])
    found[rows] = (torch.stack(copies).float().mean(0) >= 0.5).numpy()
    return found


def pixels(path: Path) -> Tensor:
    """A picture in [0, 1], [3, height, width]."""
    return torch.from_numpy(np.asarray(read_image(path).convert("RGB"), np.float32) / 255).permute(
        2, 0, 1
    )


def units(worker: Worker, prompts: list[Prompt]) -> Iterator[Unit]:
    """All prompts, as the worker makes units."""
    for start in range(0, len(prompts), worker.unit):
        yield worker.texts([prompt.text for prompt in prompts[start : start + worker.unit]])


def look_at(
    scene: Scene, unit: Unit, walk: int, peers: bool, sampling: bool
) -> dict[str, tuple[Tensor, int]]:
    """(values, rows) by name, of one unit under one noise. Neurons' norms are "norms@…"."""
    size = unit.rows
    first = replace(scene.first(unit), moments=None)
    found = {f"{name}@1": (value, 1) for name, value in of_look(first, first, size).items()}
    for level in LEVELS:
        time = scene.driver.path.time_of(level)
        look = scene.both(scene.step(first.prediction, time), time, unit.conditioning)
        named = of_look(look, first, size).items()
        found |= {f"{name}@{level}": (value, 3) for name, value in named}
        latents = scene.step(scene.empty, time)[:1].expand(
            len(unit.conditioning), *latents_of(scene)
        )
        look = replace(
            scene.look(latents, time, unit.conditioning), empty=shared(scene, latents, time)
        )
        named = of_look(look, first, size).items()
        found |= {f"shared {name}@{level}": (value, 1) for name, value in named if name != "norms"}
    if walk:
        looks = PROBES["walk"].looks(scene, unit)
        for steps in range(2, walk + 1):
            named = of_look(looks[steps - 1], first, size).items()
            cost = 2 * steps - 1
            found |= {f"{name}@step{steps}": (value, cost) for name, value in named}
        found |= {f"updates@{k}": (v[:size], 2 * k - 1) for k, v in updates(scene, looks).items()}
    if peers:
        found["alignment"] = alignment(scene, unit), 1
        found["curvature"] = curvature(scene, unit, first), 3
        entropy = attention_entropy(scene, unit)
        if entropy is not None:
            found["entropy"] = entropy, 1
    if sampling:
        found["last step"] = last_step(scene, unit)
    return found


def latents_of(scene: Scene) -> tuple[int, ...]:
    """The shape of one image's latents."""
    return tuple(scene.noise.shape[1:])


def shared(scene: Scene, latents: Tensor, time: float) -> Prediction:
    """The prediction without a prompt at latents that all prompts share: no prompt's row."""
    return scene.look(latents[:1], time, scene.no_prompt.expand(1)).prediction


def of_look(look: Look, first: Look, size: int) -> Found:
    """Everything of a look that needs no reference."""
    empty = look.empty or first.empty
    gap, own, base = (
        x.cpu().double().flatten(1)
        for x in (look.prediction.noise, first.prediction.clean, empty.noise)
    )
    gap, clean = gap - base, look.prediction.clean.cpu().double().flatten(1)
    without = empty.clean.cpu().double().flatten(1)
    found = {
        "norm": gap.norm(dim=1),
        "relative": gap.norm(dim=1) / base.norm(dim=1),
        "cosine": torch.cosine_similarity(gap, base.expand_as(gap), dim=1),
        "picture": (clean - without).norm(dim=1) / without.norm(dim=1),
        "change": (clean - own).norm(dim=1),
        "norms": look.norms.float(),
    }
    return {name: value[:size].cpu() for name, value in found.items()}


def columns_of(
    found: Found, cost: dict[str, int], columns: Columns
) -> dict[str, NDArray[np.float64]]:
    """One number a prompt: neurons' norms are compared with those of the references, crossed over
    halves of these as an audit does."""
    result = {
        name: x.numpy().astype(float)
        for name, x in found.items()
        if not name.startswith(("norms@", "updates@"))
    }
    reference = np.flatnonzero(columns.reference)
    for name in (name for name in found if name.startswith("updates@")):
        lengths = found[name].log()
        seen = lengths[reference]
        result[name] = ((lengths - seen.mean(0)) / seen.std(0)).abs().amax(1).numpy()
    for name in (name for name in found if name.startswith("norms@")):
        norms = found[name].double()
        where = name.removeprefix("norms@")
        scores = {kind: np.empty(len(norms)) for kind in NEURONS}
        halves = [reference[half::2] for half in (0, 1)]
        others = np.flatnonzero(~columns.reference)
        for own, learnt in ((halves[0], halves[1]), (halves[1], halves[0]), (others, reference)):
            base = norms[learnt]
            baseline = Baseline(base.mean(0), base.std(0))
            examples = baseline.standardise(norms[columns.example])
            z = baseline.standardise(norms[own])
            top = examples.mean(0).topk(max(1, round(LOCATED * z.shape[1]))).indices
            direction = discriminant_direction(examples, baseline.standardise(base))
            scores["energy"][own] = z.square().mean(1)
            scores["located"][own] = z[:, top].square().mean(1)
            scores["discriminant"][own] = z @ direction
        result |= {f"{kind}@{where}": value for kind, value in scores.items()}
    return result
