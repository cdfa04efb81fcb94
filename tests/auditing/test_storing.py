"""An audit's folder: what was indexed is what is scored, and what is read again is whole."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from memfast import PromptSet
from memfast.auditing import audit
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Worker
from memfast.auditing.storing.blocks import Blocks
from memfast.auditing.storing.index import Index
from memfast.errors import InputError
from memfast.files import load_tensors, locked, save_tensors
from memfast.pipelines.drivers.table import driver_of
from memfast.prompts import Prompt, read_prompts
from tests.auditing.conftest import REFERENCE, TEXTS, bits

FIRST = Settings(probe="first", block_size=6, unit=4, threads=1)
FEW = [Prompt(f"p{n}", text) for n, text in enumerate(TEXTS[:14])]


@pytest.fixture
def run(tiny_pipeline):
    def audited(prompts, out: Path, **how):
        how = {"reference": REFERENCE, "settings": FIRST, **how}
        prompts = PromptSet.of(prompts) if isinstance(prompts, list) else prompts
        outcome = audit(tiny_pipeline, prompts, out, **how)
        assert outcome is not None
        return outcome

    return audited


def test_a_list_that_changes_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    rows = [{"prompt": text, "label": "x"} for text in TEXTS[:6]]

    def write(rows: list[dict]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(rows)
    prompts = read_prompts(path)
    index = Index.of(prompts)
    assert [p.text for p in index.again(prompts)] == TEXTS[:6]
    for changed, where in (
        ([*rows[:3], rows[4], rows[3], rows[5]], "line 4"),
        ([*rows[:5], rows[5] | {"label": "y"}], "line 6"),
        ([*rows, {"prompt": "more"}], "line 7"),
        (rows[:4], "only 4 of 6 prompts left"),
    ):
        write(changed)
        with pytest.raises(InputError, match=rf"has changed since .* \({where}\)"):
            list(index.again(prompts))


def test_nothing_of_an_edited_list_is_scored_or_written(run, tmp_path, monkeypatch) -> None:
    """Edited while its blocks are computed; put back, it goes on to the same bits."""
    path, out = tmp_path / "list.txt", tmp_path / "out"
    path.write_text("\n".join(TEXTS[:14]))
    run(path, tmp_path / "whole")
    write, original = Blocks.write, path.read_text()

    def edit(self: Blocks, number: int, block) -> None:
        write(self, number, block)
        swapped = [*TEXTS[:12], TEXTS[13], TEXTS[12]]
        path.write_text("\n".join(swapped))

    monkeypatch.setattr(Blocks, "write", edit)
    with pytest.raises(InputError, match=r"list\.txt: has changed since .*line 13"):
        run(path, out)
    monkeypatch.setattr(Blocks, "write", write)
    assert not (out / "scores.parquet").exists()
    path.write_text(original)
    run(path, out)
    assert bits(out) == bits(tmp_path / "whole")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_fewer_rows(path: Path) -> None:
    tensors, header = load_tensors(path, "audit block", 2)
    tensors |= {name: tensors[name][:-1] for name in ("scores", "truncated")}
    save_tensors(path, tensors, header)


def of_another_audit(path: Path) -> None:
    tensors, header = load_tensors(path, "audit block", 2)
    save_tensors(path, tensors, {**header, "run": "another"})


def of_another_number(path: Path) -> None:
    path.write_bytes(path.with_name("block-000000.safetensors").read_bytes())


def test_what_is_broken_is_made_again_and_said(run, tmp_path, caplog) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    run(FEW, out)
    shutil.copytree(out, kept)
    for spoil in (flipped, of_fewer_rows, of_another_audit, of_another_number):
        spoil(out / "blocks" / "block-000001.safetensors")
        run(FEW, out)
        assert "block-000001.safetensors: " in caplog.text
        assert "the block is computed again" in caplog.text
        assert bits(out) == bits(kept)
        caplog.clear()
    flipped(out / "calibration.safetensors")
    run(FEW, out)
    assert "calibration.safetensors: damaged or edited" in caplog.text
    assert bits(out) == bits(kept)


def test_another_calibration_makes_other_blocks(run, tmp_path, caplog) -> None:
    """As on a machine that rounds otherwise: no block is judged by baselines that are gone."""
    out = tmp_path / "out"
    run(FEW, out)
    path = out / "calibration.safetensors"
    tensors, header = load_tensors(path, "audit calibration", 2)
    tensors["mean"] += 1
    save_tensors(path, tensors, header)
    run(FEW, out)
    assert caplog.text.count("of another run") == 3


def test_an_old_calibration_is_refused(run, tmp_path) -> None:
    run(FEW, tmp_path / "old")
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tmp_path / "old" / "calibration.safetensors", out)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds calibration\.safetensors, which memfast"):
            run(FEW, out, overwrite=overwrite)


def test_one_works_in_a_folder_at_a_time(run, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out), pytest.raises(InputError, match=r"process .* works there"):
        run(FEW, out)
    run(FEW, out)


def test_ones_own_files_stay(run, tmp_path) -> None:
    out = tmp_path / "out"
    run(FEW, out, verify=0.1, verify_seeds=2)
    mine = [out / "notes.txt", out / "blocks" / "block-mine", out / "pictures" / "mine.png"]
    for path in mine:
        path.write_text("mine")
    run(FEW, out, settings=replace(FIRST, seed=1), overwrite=True)
    assert all(path.read_text() == "mine" for path in mine)
    assert [path.name for path in (out / "pictures").iterdir()] == ["mine.png"]


def test_a_row_with_a_seed_is_looked_at_with_its_own_noise(tiny_pipeline) -> None:
    driver = driver_of(tiny_pipeline)
    schedule = driver.schedule().as_dict()
    settings = replace(FIRST, probe="jump", noises=2, **schedule)
    seeded = [replace(FEW[1], seed=7), replace(FEW[4], seed=8)]
    mixed = [FEW[0], seeded[0], FEW[2], seeded[1]]

    def looks(prompts: list[Prompt]) -> dict[int, list]:
        with Worker(tiny_pipeline, settings) as worker:
            found = {}
            for places, by_noise in worker.looks(prompts):
                for row, place in enumerate(places):
                    found[place] = [
                        (each.norms[row], each.prediction.noise[row])
                        for each in (looks[-1] for looks in by_noise)
                    ]
            return found

    def equal(first: list, second: list) -> bool:
        return all(
            torch.equal(a, b)
            for one, other in zip(first, second, strict=True)
            for a, b in zip(one, other, strict=True)
        )

    together = looks(mixed)
    assert equal(looks([FEW[0], FEW[2]])[1], together[2])  # others are as without it
    assert equal(looks([seeded[0]])[0], together[1])  # and it is as without others
    assert not equal(looks([FEW[1]])[0], together[1])
    with Worker(tiny_pipeline, settings) as worker:
        scene = next(worker._own_scenes(seeded))
    own = torch.Generator().manual_seed(7)
    assert torch.equal(scene.noise[0], driver.noise_of([own])[0])


def test_a_text_with_two_seeds_is_two(run, tmp_path) -> None:
    prompts = [FEW[0], replace(FEW[0], seed=1), replace(FEW[0], seed=2), *FEW[1:], FEW[0]]
    outcome = run(PromptSet.of(prompts), tmp_path / "out")
    assert outcome.summary["texts"] == 16
    values = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()["relative"]
    assert len(set(values[:3])) == 3
    assert values[-1] == values[0]
    run(PromptSet.of(FEW), tmp_path / "plain")
    plain = pq.read_table(tmp_path / "plain" / "scores.parquet").to_pydict()["relative"]
    assert plain == [values[0], *values[3:-1]]


def test_what_is_published_is_no_formula_and_names_no_place(run, tmp_path) -> None:
    path, out = tmp_path / "list.jsonl", tmp_path / "out"
    rows = [{"id": f"={n}", "prompt": text, "image": "no.png"} for n, text in enumerate(TEXTS[:14])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = run(path, out, fpr=0.5, verify=0.1, verify_seeds=2)
    with open(out / "flagged.csv", newline="") as handle:
        assert all(row["id"].startswith("'=") for row in csv.DictReader(handle))
    assert outcome.manifest["prompts"]["path"] == "../list.jsonl"
    assert outcome.summary["notes"][0].endswith("image no.png: no such file")
    for file in out.iterdir():
        if file.suffix in (".json", ".csv", ".jsonl", ".html", ""):
            assert file.is_dir() or str(tmp_path) not in file.read_text(), file
    json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
