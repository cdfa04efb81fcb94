"""Commands × kinds of pipelines, from the command line: every cell works, or says why not."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from memfast import load_pipeline
from memfast.cli import main
from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.table import EVERYDAY, ONE_A_KIND, build, marked

SHORT = ["--num-inference-steps", "2"]
SMALL = {"z-image": (256, 256)}  # less than its own size; folders of Flux and Qwen forget theirs
CAPTIONS = ("a red cat", "b", "dog on a blue background", "the last one")


def lists(folder: Path) -> tuple[Path, Path]:
    """Memorized and reference captions, each with a picture."""
    paths = []
    draw = np.random.default_rng(0)
    for name, texts in (
        ("memorized", CAPTIONS),
        ("reference", [f"picture {'very ' * k}plain {k}" for k in range(8)]),
    ):
        rows = []
        for number, text in enumerate(texts):
            picture = folder / f"{name}-{number}.png"
            pixels = draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(picture)
            rows.append({"id": f"{name[0]}{number}", "prompt": text, "image": str(picture)})
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(path)
    return paths[0], paths[1]


@dataclass
class Bench:
    """One kind's folder, and what commands made of it, each once."""

    kind: str
    root: Path
    runs: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def model(self) -> Path:
        folder = self.root / "model"
        build(self.kind).save_pretrained(folder)
        return folder

    @cached_property
    def short(self) -> list[str]:
        """Options of a short run at a small size."""
        built = driver_of(build(self.kind)).size
        small = SMALL.get(self.kind, built)
        size = ["--height", str(small[0]), "--width", str(small[1])]
        own = small == driver_of(load_pipeline(self.model)).size
        return [*SHORT, *([] if own else size)]

    @cached_property
    def lists(self) -> tuple[Path, Path]:
        return lists(self.root)

    @cached_property
    def usual(self) -> Path:
        """Captions enough to calibrate an audit on."""
        path = self.root / "usual.txt"
        path.write_text("".join(f"usual {'words ' * (k % 3)}{k}\n" for k in range(20)))
        return path

    @property
    def both(self) -> list[Any]:
        return ["--memorized", self.lists[0], "--reference", self.lists[1]]

    def run(
        self, name: str, command: str, *arguments: Any, out: str, ends: tuple[int, ...] = (0,)
    ) -> Path:
        """A command's output; the command is run once a kind. Fails unless it ends as it may."""
        if name not in self.runs:
            path = self.root / out
            words = [command, *arguments, "--out", path, "--device", "cpu"]
            words = words[:-2] if command in ("prune",) else words
            code = call(*words)
            assert code in ends, f"memfast {' '.join(map(str, words))}: exit code {code}"
            self.runs[name] = path
        return self.runs[name]

    @property
    def statistics(self) -> Path:
        return self.run(
            "collect", "collect", self.model, "--prompts", self.lists[0], *self.short,
            out="collected.safetensors",
        )  # fmt: skip

    @property
    def reference(self) -> Path:
        return self.run(
            "collect reference", "collect", self.model, "--prompts", self.lists[1], *self.short,
            out="of-reference.safetensors",
        )  # fmt: skip

    @property
    def subspace(self) -> Path:
        files = ["--memorized", self.statistics, "--reference", self.reference]
        return self.run(
            "locate", "locate", self.model, *files, "--fraction", "0.25", out="u.safetensors"
        )

    @property
    def compact(self) -> Path:
        return self.run(
            "compact", "compact", self.model, "--subspace", self.subspace, out="compact"
        )


def call(*words: Any) -> int:
    """The exit code of a command line, run in this process."""
    before = sys.argv
    sys.argv = ["memfast", *map(str, words)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module", params=marked(ONE_A_KIND, EVERYDAY))
def bench(request: Any, tmp_path_factory: Any) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    yield Bench(request.param, tmp_path_factory.mktemp(request.param))
    torch.set_num_threads(threads)


def summary(folder: Path) -> dict[str, Any]:
    """A command's summary, which must be strict JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in {folder}")

    path = folder / "summary.json" if folder.is_dir() else folder.with_suffix(".summary.json")
    return json.loads(path.read_text(), parse_constant=refuse)


def test_every_kind_and_command_is_tried() -> None:
    from memfast.cli.finding.families import RUNS
    from memfast.pipelines.drivers.table import DRIVERS

    pytest.importorskip("sentencepiece")
    tried = {type(driver_of(build(name))).__name__ for name in ONE_A_KIND}
    assert tried == {driver.__name__ for driver in DRIVERS}
    assert all(any(name.startswith(f"test_{run}") for name in globals()) for run in RUNS)


def test_collect(bench: Bench) -> None:
    found = summary(bench.statistics)
    assert found["prompts"] == len(CAPTIONS)
    assert found["skipped"] == 0
    assert found["header"]["num_inference_steps"] == 2
    assert found["header"]["guidance_scale"] >= 1


def test_collect_both_halves(bench: Bench) -> None:
    out = bench.run(
        "both", "collect", bench.model, "--prompts", bench.lists[0], "--rows", "both", "--padding",
        "--row-normalised", "--prompt-norms", "--steps", 1, *bench.short, out="both.safetensors",
    )  # fmt: skip
    rows, halves = load_file(bench.statistics), load_file(out)
    for name in rows:  # twice as many, or one token of Lumina 2's null caption more
        if name.endswith("/count"):
            one = rows[name][:1]  # zero at sites of Wan 2.2 that do not run at the first step
            assert ((halves[name] > one) | (one == 0)).all()


@pytest.mark.parametrize("rule", ["neurons", "weights", "paper", "reference", "selective", "gates"])
def test_locate(bench: Bench, rule: str) -> None:
    sets = bench.both[2:] if rule == "reference" else bench.both
    sets = [*sets, "--gate-steps", 3] if rule == "gates" else sets
    if rule == "paper":  # it compares norms over all captions: as many of each
        sets[-1] = bench.root / "as-many.jsonl"
        lines = bench.lists[1].read_text().splitlines(keepends=True)
        sets[-1].write_text("".join(lines[: len(CAPTIONS)]))
    out = bench.run(
        f"locate {rule}", "locate", bench.model, *sets, "--rule", rule, "--fraction", "0.25",
        *bench.short, out=f"{rule}.safetensors",
    )  # fmt: skip
    assert 0 < summary(out)["density"] < 0.5


def test_locate_to_a_damage(bench: Bench) -> None:
    out = bench.run(
        "damage", "locate", bench.model, *bench.both[2:], "--rule", "reference", "--max-damage", 9,
        *bench.short, out="damage.safetensors",
    )  # fmt: skip
    assert summary(out)["details"]["damage"] <= 9


def test_prune_equals_compact(bench: Bench) -> None:
    """The masked and the smaller pipeline, reloaded, predict the same."""
    masked = bench.run("prune", "prune", bench.model, "--subspace", bench.subspace, out="pruned")
    uncompensated = bench.run(
        "uncompensated", "compact", bench.model, "--subspace", bench.subspace, "--compensate",
        "none", out="uncompensated",
    )  # fmt: skip
    outputs = []
    for folder in (masked, uncompensated):
        driver = driver_of(load_pipeline(folder))
        noise, time = driver.initial_noise(["x"], 0), driver.path.time_of(0.5)
        with torch.no_grad():
            outputs.append(driver.predict(noise, time, driver.encode(["a red cat"])))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["compact", "portable", "masked"])
def test_compact(bench: Bench, format: str) -> None:
    out = bench.run(
        f"compact {format}", "compact", bench.model, "--subspace", bench.subspace, "--format",
        format, out=f"as-{format}",
    )  # fmt: skip
    found = summary(out)
    assert found["neurons_after"] < found["neurons_before"]


@pytest.mark.parametrize("probe", ["first", "settle", "jump", "walk"])
def test_audit(bench: Bench, probe: str) -> None:
    out = bench.run(
        f"audit {probe}", "audit", bench.model, "--prompts", bench.lists[0], "--reference",
        bench.usual, "--probe", probe, "--walk-steps", 2, "--unit", 3, "--verify", "0.5",
        "--verify-seeds", 2, *bench.short, out=f"audit-{probe}",
    )  # fmt: skip
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(out / "scores.parquet")
    assert table.num_rows == len(CAPTIONS)
    assert np.isfinite(table["relative"].to_numpy()).all()
    assert (out / "report.html").stat().st_size > 1000


def test_evaluate_all_methods(bench: Bench) -> None:
    out = bench.run(
        "evaluate", "evaluate", bench.model, *bench.both, "--methods", "all", "--repeats", 1,
        "--seeds", 1, "--metrics", "l2_ratio,ssim", *bench.short, out="evaluated",
    )  # fmt: skip
    found = summary(out)
    named = {row["method"] for row in found["methods"]}
    assert {"original", "neurons", "paper", "least-needed", "prompt-embedding"} <= named
    for method in ("attention-rescaling", "value-neurons"):
        assert method in named or "does not apply to" in found["missing"][method]


def test_evaluate_a_treated_model(bench: Bench) -> None:
    out = bench.run(
        "treated", "evaluate", bench.compact, "--original", bench.model, *bench.both, "--repeats",
        1, "--seeds", 1, "--metrics", "ssim", *bench.short, out="treated",
    )  # fmt: skip
    (row,) = [row for row in summary(out)["methods"] if row["method"] == "model"]
    assert math.isfinite(row["removed"][0] if isinstance(row["removed"], list) else row["removed"])


def test_attack(bench: Bench) -> None:
    out = bench.run(
        "attack", "attack", bench.model, *bench.both, "--steps", "1,2", "--draws", 1, "--seeds", 1,
        "--limit", 2, "--metrics", "ssim", "--extraction-seeds", 2, *bench.short, out="attacked",
    )  # fmt: skip
    starts = {row["start"] for row in summary(out)["rates"]}
    assert {"prompt", "noise", "another", "nearest words"} <= starts


def test_repair(bench: Bench) -> None:
    out = bench.run(
        "repair",
        "repair",
        bench.compact,
        "--original",
        bench.model,
        *bench.both,
        "--steps",
        2,
        "--batch-size",
        2,
        "--controls",
        1,
        *bench.short,
        out="repaired",
        ends=(0, 3),
    )  # fmt: skip  3: two steps may leave a random model worse, and the command says so
    assert math.isfinite(summary(out)["damage_after"])
    driver = driver_of(load_pipeline(out))
    assert (
        driver.generate(driver.encode(["b"]), ["x"], 0, {"num_inference_steps": 1}).isfinite().all()
    )


def test_shrink_by_least_squares(bench: Bench) -> None:
    out = bench.run(
        "shrink", "compact", bench.model, "--shrink", "0.3", "--reference", bench.lists[1],
        "--compensate", "least-squares", "--multiple-of", 1, *bench.short, out="shrunk",
    )  # fmt: skip
    assert summary(out)["neurons_removed"] > 0
