"""The page: escaped, small, usable by keyboard, and made of what was stored."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from memfast.cli.command import Command
from memfast.cli.provenance import note_provenance, write_run
from memfast.errors import InputError
from memfast.report import Report
from memfast.report.figures import FEWEST, below, spread, told
from memfast.report.pictures import INDEX, Album, Shot, keep_pictures, read_albums
from memfast.report.stored import PAGES, page_of

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
RATE = {"value": 0.5, "low": 0.4, "high": 0.6, "prompts": 20, "groups": 20}


class Tags(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def evil_page(folder: Path) -> Report:
    """Every part of a page, with markup wherever a text may stand."""
    keep_pictures(
        folder, [Album(EVIL, [(EVIL, [Shot(EVIL, torch.zeros(3, 2, 2), {"ssim": 1.0}, True)])])]
    )
    page = Report(EVIL, EVIL, folder)
    page.verdict("bad", EVIL, EVIL)
    page.figure(EVIL, EVIL, EVIL)
    page.table(EVIL, (EVIL, "value"), [(EVIL, 0.25), ("n", None)] * 40, note=EVIL)
    page.text(EVIL, EVIL)
    page.facts(EVIL, [(EVIL, EVIL), (EVIL, (EVIL,))])
    for album in read_albums(folder):
        page.gallery(album["heading"], album["cards"], EVIL)
    page.charts(EVIL, {EVIL: ("<svg></svg>", EVIL)})
    return page


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    tags = Tags(evil_page(tmp_path).html())
    assert len(tags.of("script")) == 1
    assert not [a for _, a in tags.found if any(name.startswith("on") for name in a)]
    assert {a["src"].split(",")[0] for a in tags.of("img") if a["src"]} <= {
        "data:image/png;base64",
        "data:",
    }


def test_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    html = evil_page(tmp_path).html()
    policy = Tags(html).of("meta")[1]["content"] or ""
    script = html.split("<script>")[1].split("</script>")[0]
    assert "default-src 'none'" in policy
    from base64 import b64encode
    from hashlib import sha256

    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_page_stands_alone_and_can_be_used_by_keyboard(tmp_path: Path) -> None:
    html = evil_page(tmp_path).html()
    tags = Tags(html)
    assert not tags.of("link")
    assert all(a.get("alt") is not None for a in tags.of("img"))
    heads = re.findall("<th [^>]*>(.*?)</th>", html)
    assert heads
    assert all(head.startswith("<button") for head in heads)
    assert {a["href"] for a in tags.of("a")} == {f"#{a['id']}" for a in tags.of("section")}
    assert "aria-sort" in html
    assert "prefers-color-scheme: dark" in html
    assert "size: A4" in html


def test_pictures_are_inside_until_the_page_is_full(tmp_path: Path) -> None:
    noise = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    cards = [(f"caption {n}", [Shot("one", noise), Shot("two", None)]) for n in range(60)]
    names = keep_pictures(tmp_path, [Album("many", cards)])
    assert len(names) == 61
    assert all((tmp_path / name).is_file() for name in names)
    page = Report("many", folder=tmp_path)
    for album in read_albums(tmp_path):
        page.gallery(album["heading"], album["cards"])
    html = page.html()
    assert len(html) < 2_000_000
    sources = [a["src"] or "" for a in Tags(html).of("img")]
    linked = [source for source in sources if not source.startswith("data:")]
    assert linked
    assert all((tmp_path / source).is_file() for source in linked)


def test_large_pictures_are_shown_small_and_linked(tmp_path: Path) -> None:
    keep_pictures(tmp_path, [Album("h", [("c", [Shot("one", torch.rand(3, 512, 512))])])])
    page = Report("large", folder=tmp_path)
    page.gallery("h", read_albums(tmp_path)[0]["cards"])
    html = page.html()
    assert 'data-full="pictures/1-0000-00.jpg"' in html
    assert len(html) < 100_000


def test_a_picture_outside_the_folder_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    keep_pictures(tmp_path, [Album("h", [("c", [Shot("secret", torch.rand(3, 8, 8))])])])
    index = (tmp_path / INDEX).read_text().replace("pictures/1", "../pictures/1")
    (tmp_path / "run" / INDEX).write_text(index)
    page = Report("outside", folder=tmp_path / "run")
    page.gallery("h", read_albums(tmp_path / "run")[0]["cards"])
    assert "data:image/png" not in page.html()


def test_few_prompts_are_too_few_to_tell() -> None:
    none = RATE | {"value": 0.0, "low": 0.0, "high": 0.1}
    assert below(none, RATE) == "shown"
    assert below(RATE, RATE) == "not shown"
    few = RATE | {"groups": FEWEST - 1}
    assert below(few, few) == "too few to tell"
    assert "too few to tell" in spread(few)
    assert told({"value": None}) == "unknown"


def test_fewest_is_where_none_and_all_part() -> None:
    from memfast.measuring.rates import unseen_bound

    bounds = {n: unseen_bound(n) for n in (FEWEST - 1, FEWEST)}
    assert bounds[FEWEST - 1] >= 1 - bounds[FEWEST - 1]
    assert bounds[FEWEST] < 1 - bounds[FEWEST]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no finished run"),
        ({"provenance.json": {"kind": "audit"}}, "holds no finished run"),
        ({"provenance.json": {"kind": "else"}, "summary.json": {"a": 1}}, "holds no finished run"),
        ({"provenance.json": [], "summary.json": {}}, "is not a JSON object"),
    ]
    + [({"provenance.json": {"kind": kind}, "summary.json": {"a": 1}}, kind) for kind in PAGES],
)
def test_other_folders_are_one_line(tmp_path: Path, files: dict, words: str) -> None:
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(InputError, match=words) as error:
        page_of(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_report_costs_no_heavy_import() -> None:
    code = "import sys, memfast.report.stored; print(*{'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_results_outlive_a_report_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("no\nfont")

    monkeypatch.setattr("memfast.report.stored.write_report", fail)
    write_run(tmp_path / "run", "attack", {"a": 1}, {})
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"a": 1}
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["kind"] == "attack"
    assert "note: no report.html (" in capsys.readouterr().err


def test_the_command_is_noted_as_it_was_given(tmp_path: Path) -> None:
    noted = {}

    def command(model: str, out: Path, seed: int = 0, deep: bool = False) -> None:
        note_provenance(tmp_path, "attack")
        noted.update(json.loads((tmp_path / "provenance.json").read_text()))

    app = typer.Typer()
    app.command("try", cls=Command)(command)
    done = CliRunner().invoke(app, ["a model", str(tmp_path / "out"), "--deep", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert noted["command"].endswith("'a model' out --seed 3 --deep")
