"""The build's data: glyphs, composition, sets and tokenizer."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memfast.demo.build.__main__ import training_captions
from memfast.demo.build.data import compose, glyphs, sets, tokenizer

Plain = Callable[[int], list[glyphs.Glyph]]
needs_font = pytest.mark.skipif(
    not (glyphs.FONT.exists() and glyphs.NAMES.exists()), reason="no emoji font here"
)


def test_the_sets_have_the_sizes_and_duplicates_of_the_card(made: sets.Sets) -> None:
    assert {k: len(v) for k, v in made.examples.items()} == {
        "memorized": 96,
        "templates": 96,
        "singles": 400,
        "heldout": 400,
    }
    duplicates = [x.duplicates for x in made.examples["memorized"]]
    assert {d: duplicates.count(d) for d in duplicates} == {15: 32, 30: 32, 75: 32}
    assert {x.duplicates for x in made.examples["singles"]} == {1}
    assert {x.duplicates for x in made.examples["heldout"]} == {0}


def test_no_caption_is_in_two_sets(made: sets.Sets) -> None:
    captions = [{x.prompt for x in rows} for rows in made.examples.values()]
    assert sum(map(len, captions)) == len(set.union(*captions))


def test_memorized_and_template_glyphs_occur_nowhere_else(made: sets.Sets) -> None:
    groups = {name: {x.group for x in rows} for name, rows in made.examples.items()}
    stream = {glyph.name for glyph, _ in made.fresh}
    assert not groups["memorized"] & groups["templates"]
    assert not (groups["memorized"] | groups["templates"]) & stream
    assert groups["singles"] | groups["heldout"] <= stream


def test_heldout_captions_are_not_trained_on(made: sets.Sets) -> None:
    heldout, trained = {x.prompt for x in made.examples["heldout"]}, training_captions(made)
    assert not heldout & set(trained)
    assert {x.prompt for x in made.trained} <= set(trained)
    assert not heldout & {compose.caption(g.name, w) for g, w in made.fresh}


def test_template_pictures_share_a_caption_and_differ(made: sets.Sets) -> None:
    rows = made.examples["templates"][: sets.VARIANTS]
    assert len({x.prompt for x in rows}) == 1
    assert len({x.image.tobytes() for x in rows}) == sets.VARIANTS


@pytest.mark.parametrize(("seed", "equal"), [(0, True), (1, False)])
def test_the_seed_decides(made: sets.Sets, plain_glyphs: Plain, seed: int, equal: bool) -> None:
    def key(whole: sets.Sets) -> list[tuple[str, bytes]]:
        return [(x.prompt, x.image.tobytes()) for x in whole.trained]

    assert (key(sets.build_sets(plain_glyphs(190), seed)) == key(made)) is equal


def test_too_few_glyphs_are_refused(plain_glyphs: Plain) -> None:
    with pytest.raises(ValueError, match="150 glyphs are too few"):
        sets.build_sets(plain_glyphs(150))


def test_a_glyph_stands_out_from_its_backgrounds() -> None:
    image = Image.new("RGBA", (68, 68), (*compose.COLOURS["teal"], 255))
    words = sets.legible_colours(glyphs.Glyph("patch", image))
    assert "teal" not in words
    assert {"red", "white", "black"} <= set(words)


def test_written_sets_read_back(made: sets.Sets, tmp_path: Path) -> None:
    sets.write_sets(made, tmp_path)
    for name, rows in made.examples.items():
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["prompt"] for line in lines] == [x.prompt for x in rows]
    last = json.loads(lines[-1])
    assert np.array_equal(np.asarray(Image.open(tmp_path / last["image"])), rows[-1].image)


@needs_font
def test_chosen_glyphs_look_apart_and_keep_out_what_is_named() -> None:
    chosen = glyphs.choose(glyphs.read_glyphs(), glyphs.MINIMUM_DISTANCE)
    assert len({g.name for g in chosen}) == len(chosen) > 120
    assert not [g.name for g in chosen if "flag:" in g.name or "finger" in g.name]
    looks = np.stack([glyphs.look(g) for g in chosen])
    squares = (looks**2).sum(1)
    gaps = squares[:, None] + squares[None] - 2 * looks @ looks.T
    np.fill_diagonal(gaps, np.inf)
    assert np.sqrt(gaps.min() / looks.shape[1]) >= glyphs.MINIMUM_DISTANCE - 1e-4


def test_merges_take_the_most_frequent_pair_then_the_alphabet() -> None:
    # ab: 3 times; then "ab c</w>" twice; then of two pairs once each the first by alphabet
    assert tokenizer.learn_merges(["abc abc abd", "xy", "uv"], 4) == [
        ("a", "b"),
        ("ab", "c</w>"),
        ("ab", "d</w>"),
        ("u", "v</w>"),
    ]


def test_every_text_survives_the_tokenizer() -> None:
    made = tokenizer.build_tokenizer(["fox on a teal background", "cat on a red background"])
    for text in ("fox on a red background", "zürich 🦊", "x"):
        ids = made(text).input_ids
        assert made.decode(ids, skip_special_tokens=True).strip() == text
        assert (ids[0], ids[-1]) == (made.bos_token_id, made.eos_token_id)
    padded = made("x", padding="max_length").input_ids
    assert len(padded) == tokenizer.LENGTH
    assert padded[-1] == made.eos_token_id


def test_the_tokenizer_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from memfast.demo.build.data.tokenizer import learn_merges;"
        "print(learn_merges(['red fox', 'black cat on a mat', 'the end of all foxes'], 40))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().startswith("[('")
