"""The package data: what ships is complete, small enough, and its card says what was measured."""

import json
from pathlib import Path

import pytest

from memfast.demo.build.card import LICENSES, render

DATA = Path(__file__).parents[2] / "memfast" / "demo" / "data"


def test_the_card_is_the_measured_figures() -> None:
    card = json.loads((DATA / "card.json").read_text())
    assert (DATA / "CARD.md").read_text() == render(card)
    assert (DATA / "LICENSES.md").read_text() == LICENSES


def test_the_package_data_is_at_most_15_megabytes() -> None:
    assert sum(x.stat().st_size for x in DATA.rglob("*") if x.is_file()) <= 15_000_000


@pytest.mark.parametrize("name", ["memorized", "templates", "singles", "heldout"])
def test_every_line_has_its_fields_and_picture(name: str) -> None:
    rows = [json.loads(x) for x in (DATA / f"{name}.jsonl").read_text().splitlines()]
    assert len({x["id"] for x in rows}) == len(rows) > 90
    for x in rows:
        assert x.keys() == {"id", "prompt", "image", "duplicates", "level", "group"}
        assert (DATA / x["image"]).is_file()
