"""The audit's cost over the denoiser rows that a probe needs, its memory, and its kills.

`pytest --benchmark benchmarks/test_audit.py` prints, for every probe, the time of finished blocks
(text encoding, statistics, scores and the written file included) over that of bare denoiser calls
of the same unit. Both run alternately in one process.

MEMFAST_BENCHMARK_PROMPTS sets the size of the memory run (default 20,000) and
MEMFAST_BENCHMARK_KILLS the number of kills (default 5).
"""

import hashlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from statistics import median

import pytest
import torch

from memfast.auditing import audit
from memfast.auditing.looking.probes import PROBES
from memfast.auditing.looking.scores import Baseline, available
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Worker
from memfast.auditing.storing.blocks import Blocks
from memfast.blocks.families import ffn_sites
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import load_pipeline

TEXTS, UNIT = 256, 16
PROMPTS = int(os.environ.get("MEMFAST_BENCHMARK_PROMPTS", "20000"))
KILLS = int(os.environ.get("MEMFAST_BENCHMARK_KILLS", "5"))


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("demo")


def audit_block(pipeline, settings: Settings, folder: Path):
    """A function that computes and writes one block of TEXTS prompts."""
    texts = [f"red heart number {number} on a blue background" for number in range(TEXTS)]
    names = available(PROBES[settings.probe].looks_made(settings), subspace=False, memorized=False)
    neurons = sum(ffn_sites(pipeline.unet).values())
    baseline = Baseline(
        torch.zeros(neurons, dtype=torch.float64), torch.ones(neurons, dtype=torch.float64)
    )
    worker = Worker(pipeline, settings)
    blocks = Blocks(folder, "benchmark", TEXTS, TEXTS)
    return worker, lambda: blocks.write(0, worker.block(texts, names, [baseline]))


def bare_calls(pipeline, settings: Settings):
    """A function that makes the denoiser calls that the block needs, and nothing else."""
    size = pipeline.unet.config.sample_size
    latents = torch.randn(settings.unit, pipeline.unet.config.in_channels, size, size)
    embeddings = pipeline.encode_prompt(["x"] * settings.unit, "cpu", 1, False)[0]
    calls = PROBES[settings.probe].rows(settings) * TEXTS // settings.unit

    @torch.no_grad()
    def run() -> None:
        for _ in range(calls):
            pipeline.unet(latents, 500, encoder_hidden_states=embeddings)

    return run


@pytest.mark.parametrize("probe", ["first", "settle", "jump"])
def test_cost_over_bare_rows(benchmark, pipeline, tmp_path: Path, probe: str) -> None:
    """CPU time of both, alternating; the median over rounds of their ratio in a round."""
    own = driver_of(pipeline).schedule().as_dict()
    settings = Settings(probe=probe, unit=UNIT, threads=1, **own)
    bare = bare_calls(pipeline, settings)
    audited, alone = [], []

    def round_of_both() -> None:
        worker, block = audit_block(pipeline, settings, tmp_path)
        with worker:
            start = time.process_time()
            block()
            audited.append(time.process_time() - start)
        start = time.process_time()
        bare()
        alone.append(time.process_time() - start)

    benchmark.group = f"audit, unit {UNIT}"
    benchmark.pedantic(round_of_both, rounds=7, warmup_rounds=1)
    ratios = [both[0] / both[1] for both in zip(audited[1:], alone[1:], strict=True)]
    benchmark.extra_info["ratio"] = round(median(ratios), 3)
    benchmark.extra_info["ms_a_prompt"] = round(median(audited) / TEXTS * 1e3, 3)
    print(f"\n{probe}: {benchmark.extra_info}")


def test_memory_is_flat(benchmark, pipeline, tmp_path: Path) -> None:
    """Resident memory after the first 1,000 prompts and at the end of PROMPTS."""
    path = tmp_path / "prompts.txt"
    with path.open("w") as handle:
        handle.writelines(f"red heart number {number}\n" for number in range(PROMPTS))
    seen: list[tuple[int, float]] = []

    def stage(label: str, total: int):
        done = [0]

        def advance(count: int) -> None:
            done[0] += count
            if label == "auditing":
                seen.append((done[0], resident_mb()))

        return advance

    settings = Settings(probe="first", unit=64, block_size=512, threads=1)
    reference = [f"green tree number {number}" for number in range(64)]

    def run() -> None:
        audit(
            pipeline, path, tmp_path / "out", reference=reference, settings=settings, progress=stage
        )

    benchmark.pedantic(run, rounds=1)
    early = next(memory for done, memory in seen if done >= 1000)
    benchmark.extra_info["growth_mb"] = round(max(memory for _, memory in seen) - early, 1)
    benchmark.extra_info["growth_with_results_mb"] = round(resident_mb() - early, 1)
    print(f"\n{PROMPTS} prompts: {benchmark.extra_info}")
    assert benchmark.extra_info["growth_mb"] < 50


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_kills_leave_no_trace(benchmark, pipeline, tmp_path: Path) -> None:
    """KILLS processes killed at random moments, the same audit after each; then bit for bit."""
    prompts = [f"red heart number {number}" for number in range(60 * (KILLS + 2))]
    reference = [f"green tree number {number}" for number in range(32)]
    settings = Settings(probe="first", block_size=8, threads=1)
    chance, killed, whole = random.Random(0), tmp_path / "killed", tmp_path / "whole"
    fork = multiprocessing.get_context("fork")
    died: list[int | None] = []

    def run() -> None:
        arguments = {"reference": reference, "settings": settings}
        for _ in range(KILLS):
            process = fork.Process(
                target=audit, args=(pipeline, prompts, killed), kwargs=arguments, daemon=True
            )
            process.start()
            process.join(chance.uniform(0.05, 3))
            process.kill()
            process.join()
            died.append(process.exitcode)
        for out in (killed, whole):
            audit(pipeline, prompts, out, **arguments)

    benchmark.pedantic(run, rounds=1)
    print(f"\nkilled {died.count(-signal.SIGKILL)} of {KILLS} times")
    assert died.count(-signal.SIGKILL) > KILLS / 2
    names = sorted(path.relative_to(whole) for path in whole.glob("blocks/*"))
    for name in [*names, "scores.parquet", "statistics.safetensors", "calibration.safetensors"]:
        assert hash_of(killed / name) == hash_of(whole / name), name


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
