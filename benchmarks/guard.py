"""What a guard's policies leave of copies, of meaning and of time, on one model after another.

    python benchmarks/guard.py demo FOLDER ... --out guard.jsonl

A FOLDER is laid out as the embedded model's data. References are half of the held-out captions, by
glyph, and 300 of those seen once; false alarms are counted on the other half, copies on memorized
captions that replicate. A JSON line a policy, written as it is done; what has a line is not run
again. "bare" is the pipeline without a guard, whose CLIP scores, copies and times the others are
held against; the peers treat every prompt, as they are published.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.detection.collect import drawn, pixels
from memfast.attacks.embeddings import AttackSettings, find_embeddings
from memfast.demo import DATA
from memfast.evaluation.mitigations import MITIGATIONS, Setting
from memfast.guarding.calibrating import calibrate_guard
from memfast.guarding.guard import Guard
from memfast.measuring.cases import Cases, load_cases
from memfast.measuring.index import ImageIndex, index_images
from memfast.measuring.networks.clip import ClipScorer
from memfast.measuring.similarity import METRICS, Comparison
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import load_pipeline
from memfast.precision import Gradients
from memfast.prompts import PromptSet, read_prompts

POLICIES = ("note", "reword", "renew", "soften", "blank")
PEERS = ("prompt-embedding", "random-words")
SEEDS, BATCH, SINGLES = (0, 1, 2), 16, 300
STEPS = (1, 3, 7, 10)
ATTACKED, PRESSED = 12, 3.0  # images under attack; the weight of the guard's score in its loss


@dataclass
class Model:
    """One model, its captions and what judges their images."""

    name: str
    driver: Driver
    clip: ClipScorer
    corpus: Tensor
    references: list[Any]
    heldout: list[Any]
    copied: Cases
    pictures: Path

    @property
    def index(self) -> ImageIndex:
        """Of all training images, by features that come with a package."""
        with TemporaryDirectory() as folder:
            files = [p for p in sorted(self.pictures.iterdir()) if "heldout" not in p.name]
            index_images(files, Path(folder) / "index", "efficientnet-lite0-spatial")
            return ImageIndex.open(Path(folder) / "index")

    @classmethod
    def of(cls, folder: Path, most: int) -> "Model":
        """The model in a folder, with at most so many captions that replicate, of every level."""
        driver = driver_of(load_pipeline(folder / "pipeline"))
        driver.pipeline.set_progress_bar_config(disable=True)
        heldout = list(read_prompts(folder / "heldout.jsonl"))
        seen_once = list(read_prompts(folder / "singles.jsonl"))[:SINGLES]
        groups = np.array([prompt.group or prompt.id for prompt in heldout])
        chosen = drawn(np.ones(len(heldout), bool), groups, 0.5)
        corpus = [p for p in sorted((folder / "images").iterdir()) if "heldout" not in p.name]
        own = folder / "clip"
        model = cls(
            "demo" if folder == DATA else folder.name,
            driver,
            ClipScorer(str(own if own.is_dir() else DATA / "clip")),
            torch.stack([pixels(path) for path in corpus]),
            [p for p, taken in zip(heldout, chosen, strict=True) if taken] + seen_once,
            [prompt for prompt, taken in zip(heldout, chosen, strict=True) if not taken],
            Cases(()),
            folder / "images",
        )
        listed = read_prompts(folder / "memorized.jsonl")
        cases = load_cases(listed, driver.size)
        copies = torch.stack([model.copies(model.bare(cases, seed), cases) for seed in SEEDS])
        found = [n for n, share in enumerate(copies.mean(0).tolist()) if share >= 0.5]
        levels: dict[str, list[int]] = {}
        for n, prompt in enumerate(listed):
            if n in found:
                levels.setdefault(prompt.label or "", []).append(n)
        kept = [n for own in levels.values() for n in own[: most // len(levels)]]
        model.copied = cases.part(sorted(kept))
        return model

    def images(self, pipeline: Any, texts: list[str], ids: list[str], seed: int) -> Tensor:
        """The pipeline's images of the texts, from the driver's noises, in the order of a guard."""
        driver, made = self.driver, []
        for start in range(0, len(ids), BATCH):
            part = slice(start, start + BATCH)
            noise = driver.initial_noise(ids[part], seed)
            call = driver.call(len(ids[part]), driver.schedule())
            (images, *_) = pipeline(
                prompt=texts[part], latents=noise, output_type="pt", return_dict=False, **call
            )
            made.append(driver.pictures(images))
        return torch.cat(made)

    def bare(self, cases: Cases, seed: int) -> Tensor:
        """Images without a guard."""
        return self.images(self.driver.pipeline, cases.texts, cases.ids, seed)

    def copies(self, images: Tensor, cases: Cases) -> Tensor:
        """1 where L2 ratio and SSIM both call an image a copy."""
        pair = Comparison(
            images, torch.stack([case.images[0] for case in cases.cases]), self.corpus
        )
        both = [METRICS[n].copies(METRICS[n].score(pair, None)) for n in ("l2_ratio", "ssim")]
        return (both[0] & both[1]).float()


def judged(model: Model, made: Callable[[int], Tensor], withheld: Callable[[], list[bool]]) -> dict:
    """Copies and CLIP scores of the copied captions' images, over seeds; of those withheld none."""
    copies, clips, gone = [], [], []
    for seed in SEEDS:
        images = made(seed)
        shown = ~torch.tensor(withheld())
        copies.append(model.copies(images, model.copied) * shown)
        clips.append(model.clip.score(images, model.copied.texts)[shown])
        gone.append(~shown)
    return {
        "copies": float(torch.stack(copies).mean()),
        "clip": float(torch.cat(clips).mean()) if sum(map(len, clips)) else None,
        "withheld": float(torch.stack(gone).double().mean()),
    }


def by_policy(model: Model, policy: str, calibration: Any) -> dict:
    """A guard's figures with one policy."""
    pipeline, cases = model.driver.pipeline, model.copied
    index = model.index if "verify" in policy else None
    with Guard(pipeline, calibration, policy, index=index) as guard:
        records: list[Any] = []
        run = guard.run

        def seen(*given: Any) -> Any:
            try:
                return run(*given)
            finally:
                records.extend(guard.records)

        guard.run = seen  # type: ignore[method-assign]
        held = model.heldout
        model.images(pipeline, [p.text for p in held], [p.id for p in held], 0)
        alarms = [record.flagged for record in records]
        lost = [record.withheld for record in records]
        records.clear()

        def made(seed: int) -> Tensor:
            records.clear()
            return model.images(pipeline, cases.texts, cases.ids, seed)

        found = judged(model, made, lambda: [record.withheld for record in records])
        flagged = [record.flagged for record in records]
        settled = [record.after is None or record.after <= guard.threshold for record in records]
    return found | {
        "look": calibration.look,
        "false_alarms": float(np.mean(alarms)),
        "heldout": len(alarms),
        "heldout_withheld": float(np.mean(lost)),
        "flagged": float(np.mean(flagged)),
        "settled": float(np.mean(settled)),
        "threshold_rate": calibration.footing.rate,
    }


def by_peer(model: Model, name: str) -> dict:
    """The figures of a mitigation that treats every prompt."""
    driver = model.driver
    reference = load_cases(PromptSet.of(model.references), driver.size, images_wanted=False)
    setting = Setting(driver, model.copied, reference, driver.schedule())
    treated = MITIGATIONS[name].apply(setting)
    none = [False] * len(model.copied)

    def made(seed: int) -> Tensor:
        texts, ids = model.copied.texts, model.copied.ids
        return treated.generate(treated.driver, texts, ids, seed, driver.schedule())

    return judged(model, made, lambda: none)


def times(model: Model, calibration: Any, rounds: int = 5) -> dict:
    """What a guard costs prompts that it does not flag: medians of interleaved calls of one batch,
    of prompts that are new to it, and of ones that it remembers; checked to be the same images."""
    pipeline, guarded = model.driver.pipeline, []
    seen: dict[str, list[float]] = {"bare": [], "new": [], "known": []}
    for number in range(rounds):
        held = model.heldout[number * 4 : number * 4 + 4]
        texts, ids = [p.text for p in held], [p.id for p in held]
        guard = Guard(pipeline, calibration, "note")
        for name in seen:
            began = perf_counter()
            if name == "bare":
                images = model.images(pipeline, texts, ids, 0)
            else:
                with guard:
                    images = model.images(pipeline, texts, ids, 0)
            seen[name].append(perf_counter() - began)
            guarded.append(images)
        if not all(torch.equal(guarded[-3], each) for each in guarded[-2:]):
            raise SystemExit("a guarded image differs from a bare one")
    middle = {name: median(values) for name, values in seen.items()}
    return {f"{look}_over_bare": middle[look] / middle["bare"] for look in ("new", "known")} | {
        "bare_seconds": middle["bare"],
        "schedule": model.driver.schedule().as_dict(),
    }


def by_steps(model: Model) -> dict:
    """How well the first steps tell: AUC and the rate of copied captions that are flagged."""
    found, driver = {}, model.driver
    texts = [(case.text, case.id) for case in model.copied.cases]
    for steps in STEPS:
        calibration = calibrate_guard(driver.pipeline, model.references, look="steps", steps=steps)
        with Guard(driver.pipeline, calibration, "note") as guard:
            scores, alarms = [], []
            for held in (False, True):
                asked = [(p.text, p.id) for p in model.heldout] if held else texts
                for start in range(0, len(asked), BATCH):
                    part = asked[start : start + BATCH]
                    model.images(driver.pipeline, [t for t, _ in part], [i for _, i in part], 0)
                    (alarms if held else scores).extend(r.score for r in guard.records)
        positive, negative = torch.tensor(scores)[:, None], torch.tensor(alarms)[None]
        found[str(steps)] = {
            "auc": float(((positive > negative).double() + 0.5 * (positive == negative)).mean()),
            "flagged": float((positive > guard.threshold).double().mean()),
            "false_alarms": float((negative > guard.threshold).double().mean()),
        }
    return found


def attacked(model: Model, calibration: Any, policy: str) -> dict:
    """Adversarial embeddings of copied images and of held-out ones, bare and through the guard:
    those of `memfast attack`, and those whose search also minimises the guard's `relative`."""
    driver, pipeline = model.driver, model.driver.pipeline
    listed = PromptSet.of(model.heldout)
    sets = {"copied": model.copied, "control": load_cases(listed, driver.size, limit=ATTACKED * 2)}
    found: dict[str, Any] = {}
    for name, cases in sets.items():
        cases = cases.part(range(min(ATTACKED, len(cases))))
        cases, targets = cases.first_images()
        clean = driver.encode_images(targets)
        start = driver.encode_all(cases.texts)
        guard = Guard(pipeline, calibration, policy)
        told = {
            "blind": find_embeddings(driver, clean, start, cases.ids, AttackSettings())[50],
            "aware": aware(driver, clean, start, cases.ids, guard),
        }
        for attack, embeddings in told.items():
            rates: dict[str, list[float]] = {
                "bare": [],
                "guarded": [],
                "flagged": [],
                "withheld": [],
            }
            for seed in SEEDS:
                images = driver.generate(embeddings, cases.ids, seed)
                rates["bare"] += model.copies(images, cases).tolist()
                with guard:
                    images = driver_of(pipeline).generate(embeddings, cases.ids, seed)
                    records = guard.records
                shown = torch.tensor([not r.withheld for r in records]).float()
                rates["guarded"] += (model.copies(images, cases) * shown).tolist()
                rates["flagged"] += [float(r.flagged) for r in records]
                rates["withheld"] += [float(r.withheld) for r in records]
            found[f"{name}, {attack}"] = {k: float(np.mean(v)) for k, v in rates.items()}
    return found


def aware(
    driver: Driver, clean: Tensor, start: Conditioning, ids: list[str], guard: Guard
) -> Conditioning:
    """50 steps of Adam on the denoising loss and the guard's differentiable score together."""
    sought, look = start.sought(), guard.look
    assert look is not None
    optimiser, gradients = torch.optim.Adam(sought.values(), lr=0.1), Gradients(driver.model)
    source = torch.Generator().manual_seed(0)
    for _ in range(50):
        told = start.found(sought)
        noise = torch.randn(4 * len(ids), *clean.shape[1:], generator=source)
        drawn_at = driver.path.drawn(4 * len(ids), source)
        losses = driver.loss(
            clean.repeat_interleave(4, 0), told.repeat_interleave(4), noise, drawn_at
        )
        score = look.relative(told).log().clamp(min=0).mean(1)
        total = losses.sum() / 4 + PRESSED * score.sum()
        for leaf, slope in zip(
            sought.values(), gradients.of(total, list(sought.values())), strict=True
        ):
            leaf.grad = slope
        optimiser.step()
    return start.found(sought).searched_by(Tensor.detach)


def arms(model: Model) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The lines of a model, in their order."""
    none = [False] * len(model.copied)
    looks: dict[str, Any] = {}

    def calibrated(look: str) -> Any:
        if look not in looks:
            looks[look] = calibrate_guard(model.driver.pipeline, model.references, look=look)
        return looks[look]

    yield "bare", lambda: judged(model, lambda s: model.bare(model.copied, s), lambda: none)
    for policy in POLICIES:
        look = "steps" if policy == "soften" else "prompt"
        yield policy, lambda p=policy, k=look: by_policy(model, p, calibrated(k))
    yield "reword,verify", lambda: by_policy(model, "reword,verify", calibrated("prompt"))
    yield "reword,blank", lambda: by_policy(model, "reword,blank", calibrated("prompt"))
    for name in PEERS:
        yield name, lambda n=name: by_peer(model, n)
    yield "times", lambda: {look: times(model, calibrated(look)) for look in ("prompt", "steps")}
    yield "steps", lambda: by_steps(model)
    yield "attack", lambda: attacked(model, calibrated("prompt"), "reword,blank")


def main() -> None:
    """Runs what has no line yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=64, help="captions that replicate")
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = set()
    if options.out.exists():
        done = {tuple(json.loads(x)[k] for k in ("model", "arm")) for x in options.out.open()}
    for name in options.models:
        model = Model.of(DATA if name == "demo" else Path(name), options.most)
        for arm, run in arms(model):
            if (model.name, arm) in done or (options.only and arm not in options.only):
                continue
            began = perf_counter()
            line = {"model": model.name, "arm": arm, "captions": len(model.copied), **run()}
            line["seconds"] = round(perf_counter() - began, 1)
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
