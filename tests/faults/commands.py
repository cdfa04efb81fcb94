"""Every command at its smallest, what it leaves, and what of it must outlive a kill."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.tiny.table import build

TIMES = {
    "command",
    "date",
    "seconds",
    "texts_per_second",
    "denoiser_rows_per_second",
    "texts_computed",
}


@dataclass(frozen=True)
class Command:
    """words: with {name}s of what `Bench.names` holds, and {out}. units: what, once finished, no
    kill may lose, as globs beside {out}. before: makes smaller, in its process, what no option
    does."""

    words: str
    out: str = "out"
    units: tuple[str, ...] = ()
    before: Callable[[], None] | None = None


def small_demo() -> None:
    """What takes the demo minutes is drawn at random: by the model's size, so that it differs."""
    import torch

    from memfast.blocks.sizes import parameters
    from memfast.demo import experiment

    def paint(pipeline: Any, cases: Any, advance: Any) -> Any:
        draw = torch.Generator().manual_seed(parameters(pipeline.unet))
        return torch.rand(2, len(cases), 3, 32, 32, generator=draw)

    def attack(driver: Any, cases: Any, *_: Any) -> Any:
        draw = torch.Generator().manual_seed(parameters(driver.model))
        return torch.rand(len(cases), generator=draw).round()

    experiment.JUDGES, experiment.generate, experiment.brought_back = 2, paint, attack
    experiment.time_per_image = lambda *_: {"before": 2.0, "after": 1.0}


LISTS = "--memorized {memorized} --reference {reference}"
STEPS = "--num-inference-steps 2"
COMMANDS = {
    "collect": Command(f"collect {{model}} --prompts {{memorized}} {STEPS}", "out.safetensors"),
    "locate": Command(
        f"locate {{model}} {LISTS} --fraction 0.25 {STEPS}",
        "out.safetensors",
    ),
    "merge": Command("merge {statistics} {others} --across-lists", "out.safetensors"),
    "prune": Command("prune {model} --subspace {subspace}"),
    "compact": Command("compact {model} --subspace {subspace}"),
    "portable": Command("compact {model} --subspace {subspace} --format portable"),
    "audit": Command(
        "audit {model} --prompts {usual} --reference {usual_reference} --block-size 3 --unit 3 "
        "--threads 1 --device cpu",
        units=("out/blocks/block-*", "out/calibration.safetensors"),
    ),
    "evaluate": Command(
        f"evaluate {{model}} {LISTS} --methods neurons --repeats 2 --seeds 1 --metrics ssim "
        f"{STEPS}",
        units=("out/unfinished/*-*",),
    ),
    "attack": Command(
        f"attack {{model}} {LISTS} --steps 1 --draws 1 --seeds 1 --limit 2 --metrics ssim "
        f"--starts prompt {STEPS}"
    ),
    "repair": Command(
        f"repair {{compact}} --original {{model}} {LISTS} --steps 4 --batch-size 2 --controls 0 "
        f"--save-every 1 --adversarial 0 {STEPS}",
        units=("out.repair*.safetensors",),
    ),
    "demo": Command(
        "demo --memorized 4 --singles 2 --attacked 1 --erase-steps 1",
        units=("out.unfinished/*.safetensors",),
        before=small_demo,
    ),
}


class Bench:
    """What commands are given, made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = {name: root / name for name in ("model", "compact")}
        for name in ("statistics", "others", "subspace"):
            self.names[name] = root / f"{name}.safetensors"
        build("sd-v").save_pretrained(self.names["model"])
        self._lists()

    def words(self, name: str, folder: Path) -> list[str]:
        """The words of a command that writes in `folder`."""
        command = COMMANDS[name]
        words = [word.format(**self.names) for word in command.words.split()]
        return [*words, "--out", str(folder / command.out)]

    def _lists(self) -> None:
        draw = np.random.default_rng(0)
        for name, texts in (
            ("memorized", ("a red cat", "b", "a dog", "the last one")),
            ("reference", [f"picture {'very ' * k}plain {k}" for k in range(8)]),
        ):
            rows = []
            for number, text in enumerate(texts):
                picture = self.root / f"{name}-{number}.png"
                pixels = draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(picture)
                rows.append({"id": f"{name[0]}{number}", "prompt": text, "image": str(picture)})
            self.names[name] = self.root / f"{name}.jsonl"
            self.names[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, word in (("usual", "usual"), ("usual_reference", "other")):
            self.names[name] = self.root / f"{name}.txt"
            self.names[name].write_text("".join(f"{word} words {k}\n" for k in range(21)))


def results(folder: Path, command: str) -> dict[str, str]:
    """{file: digest, or JSON} of what a command wrote, without times and pages."""
    found = {}
    for path in _files(folder / COMMANDS[command].out):
        if path.suffix == ".html" or path.name.startswith(".memfast"):
            continue
        content, name = path.read_bytes(), str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = json.dumps(_timeless(json.loads(content)), sort_keys=True)
        else:
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def units(folder: Path, command: str) -> dict[str, tuple[str, int]]:
    """{file: (digest, when it was written)} of the finished units of an unfinished run."""
    found = {}
    for pattern in COMMANDS[command].units:
        for path in folder.glob(pattern):
            if path.suffix != ".tmp":
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(folder))] = (digest, path.stat().st_mtime_ns)
    return found


def leftovers(folder: Path) -> list[str]:
    """What is unfinished, or a lock, in a folder where nothing runs."""
    return [str(p) for p in folder.rglob(".memfast*") if p.name != ".memfast"]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        summary = path.with_name(f"{path.stem}.summary.json")
        yield from (path, summary) if summary.is_file() else (path,)
    yield from sorted(found for found in path.rglob("*") if found.is_file())


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
