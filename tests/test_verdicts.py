"""Exit codes, JSON and silence: what a machine that runs a command reads."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from memfast.auditing.comparing import compare_audits
from memfast.cli import main
from memfast.cli.console import Lines
from memfast.cli.finding.check import AGREES, COPIES, SCORES, UNSEEN, finding
from memfast.cli.treating.reached import missed_damage, missed_share
from memfast.cli.treating.repair import _worse
from memfast.errors import InputError
from memfast.prompts.own import own_cells
from tests.auditing.conftest import REFERENCE, TEXTS


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["memfast", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_version_and_help(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("memfast ")
    assert run(monkeypatch, "audit", "-h") == 0
    assert "--fail-over" in capsys.readouterr().out


def test_check_makes_a_list_to_act_on(tiny_folder: Path, tmp_path, monkeypatch, capsys) -> None:
    """With the author's own columns; then a bound that is missed, and the audit as JSON."""
    prompts, reference = tmp_path / "prompts.csv", tmp_path / "reference.txt"
    with open(prompts, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [["caption", "owner"], *([text, f"me {n}"] for n, text in enumerate(TEXTS[:24]))]
        )
    reference.write_text("\n".join(REFERENCE))
    named = ["--prompts", prompts, "--reference", reference, "--out", tmp_path / "out"]
    short = ["--fpr", "0.3", "--seeds", "2", "--most", "2", "--num-inference-steps", "2"]
    assert run(monkeypatch, "check", tiny_folder, *named, *short, "--quiet") == 0
    assert capsys.readouterr().out == ""
    with open(tmp_path / "out" / "actions.csv", newline="") as file:
        found = list(csv.DictReader(file))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(found) == summary["flagged_texts"] > 2
    assert [row["finding"] for row in found].count(UNSEEN) == len(found) - 2
    for row in found:
        assert row["your owner"] == f"me {TEXTS.index(row['prompt'])}"
    again = [*named, *short[:2], *short[-2:], "--walk-steps", "2", "--fail-over", "0.001", "--json"]
    assert run(monkeypatch, "audit", tiny_folder, *again) == 3
    told = capsys.readouterr()
    assert json.loads(told.out)["flagged"] == summary["flagged"]
    assert "failed: --fail-over 0.001" in told.err
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text(json.dumps(summary | {"rests on": "the list itself"}))
    assert len(compare_audits([tmp_path / "out", tmp_path / "out"])) == 2
    with pytest.raises(InputError, match="rests on is 'the list itself'"):
        compare_audits([tmp_path / "out", other])
    prompts.write_text(prompts.read_text().replace(TEXTS[0], "of another list"))
    others = ["--prompts", prompts, "--reference", reference, "--out", tmp_path / "others"]
    assert run(monkeypatch, "audit", tiny_folder, *others, *again[6:12], "--quiet") == 0
    (other / "summary.json").write_text(json.dumps(summary))
    (other / "manifest.json").write_bytes((tmp_path / "others" / "manifest.json").read_bytes())
    with pytest.raises(InputError, match=r"other lists than .* \(prompts\)"):
        compare_audits([tmp_path / "out", other])


def test_findings() -> None:
    def item(agree: bool, match: bool | None) -> SimpleNamespace:
        return SimpleNamespace(seeds_agree=agree, matches_training=match)

    seen = [item(False, True), item(True, False), item(True, None), item(False, None), None]
    assert [finding(each) for each in seen] == [COPIES, AGREES, AGREES, SCORES, UNSEEN]


def test_what_is_not_reached_is_said() -> None:
    short = {"removed_of_feed_forwards": 0.2}
    assert "only 0.200" in missed_share(short, 0.3, "neurons")[0]
    assert missed_share(short, 0.21, "neurons") == missed_share(short, None, "neurons") == []
    assert "1.3000" in missed_damage(1.3, 1.02)[0]
    assert "not measured" in missed_damage(None, 1.02)[0]
    assert missed_damage(1.01, 1.02) == missed_damage(1.3, None) == []


def test_a_repair_that_made_it_worse_says_so() -> None:
    assert "1.1000 to 1.2000" in str(_worse({"damage_before": 1.1, "damage_after": 1.2}, None))
    assert _worse({"damage_before": 1.2, "damage_after": 1.1}, None) is None
    assert "--max-damage" in str(_worse({"damage": 1.1, "met": "True"}, 1.02))
    assert "attack" in str(_worse({"damage": 1.01, "met": "False"}, 1.02))
    assert _worse({"damage": 1.01, "met": "True"}, 1.02) is None


def test_own_cells_of_several_formats(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "x", "n": 1}\n{"prompt": "y", "n": [2], "m": 3}\n'
    )
    assert own_cells(tmp_path / "a.jsonl", [2]) == {2: {"prompt": "y", "m": 3}}
    (tmp_path / "a.tsv").write_text("prompt\tn\nx\t1\ny\t2\n")
    assert own_cells(tmp_path / "a.tsv", [3]) == {3: {"prompt": "y", "n": "2"}}
    (tmp_path / "a.txt").write_text("x\ny\n")
    assert own_cells(tmp_path / "a.txt", [1]) == own_cells(tmp_path, [1]) == {}


def test_a_log_gets_a_line_every_half_a_minute(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr("memfast.cli.console.time.monotonic", lambda: now[0])
    advance = Lines().stage("auditing", 1000)
    for _ in range(100):
        now[0] += 1
        advance(1)
    assert capsys.readouterr().err.splitlines() == [
        f"auditing: {done} of 1,000, about {1000 - done} s left" for done in (30, 60, 90)
    ]
