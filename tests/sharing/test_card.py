"""The model card's header is YAML that the hub reads, and its text says what must be said."""

from pathlib import Path

import pytest
import yaml

from memfast.sharing.card import NOTICE, inherited, model_card
from memfast.sharing.formats import FORMATS


def header_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("form", FORMATS)
def test_card(form: str) -> None:
    card = model_card(
        "someone/model",
        form,
        {"neurons_removed": 12345},
        {"parameters_after": 10**9, "loss": 0.123456},
        {"license": "openrail++", "pipeline_tag": "text-to-image"},
    )
    header = header_of(card)
    assert header["base_model"] == "someone/model"
    assert header["license"] == "openrail++"
    assert header["library_name"] == "diffusers"
    assert {"memfast", form} <= set(header["tags"])
    assert NOTICE in card
    assert "memfast attack" in card
    assert "| neurons removed | 12,345 |" in card
    assert "| loss | 0.1235 |" in card
    assert ("trust_remote_code=True" in card) == (form == "portable")
    assert ("import memfast" in card) == (form == "compact")


def test_a_folder_is_no_base_model(tmp_path: Path) -> None:
    card = model_card(str(tmp_path), "compact", {}, {})
    assert "base_model" not in header_of(card)
    assert "look it up" in card
    assert str(tmp_path) not in card
    assert f"`{tmp_path.name}`" in card


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "---\nlicense: mit\nlicense_name: x\nauthor: me\n---\nhello",
            {"license": "mit", "license_name": "x"},
        ),
        ("no header", {}),
        ("---\n: [\n---\n", {}),
        ("---\njust text\n---\n", {}),
    ],
)
def test_inherited(text: str, expected: dict, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert inherited(tmp_path) == expected


def test_nothing_to_inherit(tmp_path: Path) -> None:
    assert inherited(tmp_path) == {}
    assert inherited("someone/model") == {}
