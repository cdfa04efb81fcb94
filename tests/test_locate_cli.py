"""memfast locate --overlap and memfast merge, in this process."""

import json

import pytest
from typer.testing import CliRunner

from memfast import NeuronStatistics
from memfast.cli.app import app
from memfast.errors import InputError

SHORT = ["--steps", "2", "--num-inference-steps", "3"]


def memfast(*arguments: object) -> str:
    """Run a command; raises what it raises."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.output


def prompts(path, texts: list[str]):
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def test_overlap(tiny_folder, tmp_path):
    memorized = prompts(tmp_path / "m.txt", ["a cat", "c dog", "red b", "on a"])
    reference = prompts(tmp_path / "r.txt", ["blue c", "b b", "dog on", "cat red"])
    out = tmp_path / "study"
    memfast(
        *["locate", tiny_folder, "--memorized", memorized, "--reference", reference],
        *["--overlap", "--subsets", 2, "--rule", "paper", "--fraction", 0.2, "--out", out, *SHORT],
    )
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["arms"]) == 5
    assert "more shared" in summary["verdict"]
    assert "IoU by site and step" in (out / "report.html").read_text()


def test_overlap_needs_prompts(tiny_folder, tmp_path):
    memorized = prompts(tmp_path / "m.txt", ["a cat", "c dog"])
    with pytest.raises(InputError, match="--reference: --overlap needs a prompt list"):
        memfast(
            *["locate", tiny_folder, "--memorized", memorized, "--reference", "null"],
            *["--overlap", "--out", tmp_path / "study", *SHORT],
        )
    assert not (tmp_path / "study").exists()


def test_merge_of_statistics_is_collecting_both(tiny_folder, tmp_path):
    parts = []
    for name, texts in (
        ("one", ["a cat", "b"]),
        ("two", ["red c"]),
        ("all", ["a cat", "b", "red c"]),
    ):
        path = tmp_path / f"{name}.safetensors"
        listed = prompts(tmp_path / f"{name}.txt", texts)
        memfast(
            *["collect", tiny_folder, "--prompts", listed, "--out", path, "--batch-size", 1, *SHORT]
        )
        parts.append(path)
    out = tmp_path / "merged.safetensors"
    with pytest.raises(InputError, match=r"two\.txt, and .*one\.safetensors of one\.txt; --across"):
        memfast("merge", *parts[:2], "--out", out)
    assert not out.exists()
    memfast("merge", *parts[:2], "--out", out, "--across-lists")
    told = json.loads((tmp_path / "merged.summary.json").read_text())["joined"]
    assert told == {
        "one.safetensors": "2 of one.txt",
        "two.safetensors": "1 of two.txt",
    }
    merged, whole = NeuronStatistics.load(out), NeuronStatistics.load(parts[2])
    for site in whole.sites:  # three prompts, merged in the same order but in another grouping
        assert (merged[site].mean - whole[site].mean).abs().max() < 1e-12
    assert merged.header["prompt_ids"] == whole.header["prompt_ids"]
    with pytest.raises(InputError, match=r"all\.safetensors: prompts that an earlier file holds"):
        memfast("merge", parts[0], parts[2], "--out", tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


def test_parts_of_one_list_are_merged_unasked(tiny_folder, tmp_path):
    parts = []
    for number, text in enumerate(("a cat", "red c")):
        path = tmp_path / f"{number}.safetensors"
        listed = prompts(tmp_path / f"part-{number:02}-of-2.txt", [text])
        memfast("collect", tiny_folder, "--prompts", listed, "--out", path, *SHORT)
        parts.append(path)
    memfast("merge", *parts, "--out", tmp_path / "whole.safetensors")
    merged = NeuronStatistics.load(tmp_path / "whole.safetensors")
    assert merged.header["lists"] == ["part-00-of-2.txt", "part-01-of-2.txt"]
    old = dict(merged.header)
    del old["lists"]  # as an earlier version wrote it
    NeuronStatistics(merged.moments, old | {"prompt_ids": [], "text_ids": []}).save(parts[0])
    memfast("merge", *parts, "--out", tmp_path / "again.safetensors")
    told = json.loads((tmp_path / "again.summary.json").read_text())["joined"]
    assert told["0.safetensors"] == "2 of a list that it does not name"


def test_lists_that_share_a_prompt_are_refused_before_anything_runs(tiny_folder, tmp_path):
    lists = [prompts(tmp_path / f"{n}.txt", ["a cat", f"{n} b"]) for n in ("c", "red")]
    out = tmp_path / "s.safetensors"
    with pytest.raises(InputError, match="both memorized and reference: "):
        memfast(
            *["locate", "no/such-model", "--memorized", lists[0], "--reference", lists[1]],
            *["--out", out, *SHORT],
        )
    assert not out.exists()
