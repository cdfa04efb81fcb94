"""The demo's four finite sets and the endless stream of fresh pictures between them.

Memorized captions have one picture, seen `duplicates` times an epoch; a template caption has
sixteen pictures that differ in hue alone; a single is one more picture of a caption of the stream,
seen once an epoch; held-out captions are never seen. In the stream a caption is drawn in a new pose
each time. Memorized and template glyphs occur nowhere else, and glyphs are chosen to look apart, so
that no picture has a near-twin in another set. `group` is the glyph.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from memfast.demo.build.data.compose import (
    ANY_COLOUR,
    COLOURS,
    SIZE,
    caption,
    colour_of,
    compose,
    hue,
)
from memfast.demo.build.data.glyphs import Glyph

LEVELS = (15, 30, 75)  # duplicates of a memorized picture, equal shares of the captions each
MEMORIZED, TEMPLATES, VARIANTS, SINGLES, HELDOUT = 96, 6, 16, 400, 400
TEMPLATE_DUPLICATES = 5  # of each variant
NAMES = ("memorized", "templates", "singles", "heldout")
CONTRAST = 60.0  # least distance, of 0 to 441, between a background and the glyph's mean colour


@dataclass(frozen=True, slots=True)
class Example:
    """A caption with one training (or held-out) picture, uint8 [size, size, 3]."""

    id: str
    prompt: str
    image: np.ndarray
    duplicates: int
    group: str


Pair = tuple[Glyph, str]


@dataclass(frozen=True, slots=True)
class Sets:
    """`examples` by set name; the (glyph, colour word) pairs of the denoiser's stream, `fresh`;
    and `wide`: every pair but the held-out ones, for the autoencoder and the text encoder."""

    examples: dict[str, list[Example]]
    fresh: list[Pair]
    wide: list[Pair]
    size: int = SIZE  # pixels of a side

    @property
    def trained(self) -> list[Example]:
        """Returns every example that the denoiser sees: all but the held-out ones."""
        return [x for name in NAMES if name != "heldout" for x in self.examples[name]]

    def memorized(self, duplicates: int) -> list[Example]:
        """Returns the memorized examples of one level."""
        return [x for x in self.examples["memorized"] if x.duplicates == duplicates]

    @property
    def fresh_captions(self) -> list[str]:
        """Returns the captions of the stream."""
        return [caption(glyph.name, word) for glyph, word in self.fresh]

    def draw_fresh(self, number: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
        """Yields `number` captions of the stream, each with a picture in a pose of its own."""
        return draw_fresh(self.fresh, number, rng, self.size)


def legible_colours(glyph: Glyph) -> list[str]:
    """Returns the colour words whose background the glyph stands out from."""
    pixels = np.asarray(glyph.image, np.float64).reshape(-1, 4)
    mean = np.average(pixels[:, :3], axis=0, weights=pixels[:, 3] + 1e-9)
    return [w for w, rgb in COLOURS.items() if np.linalg.norm(mean - np.array(rgb)) >= CONTRAST]


def build_sets(
    glyphs: list[Glyph], seed: int = 0, levels: tuple[int, ...] = LEVELS, size: int = SIZE
) -> Sets:
    """Returns the sets; equal for an equal seed. Raises ValueError when glyphs are too few."""
    rng = np.random.default_rng(seed)
    shuffled = [glyphs[i] for i in rng.permutation(len(glyphs))]
    kept, free = shuffled[: MEMORIZED + TEMPLATES], shuffled[MEMORIZED + TEMPLATES :]
    pairs = [(g, w) for g in free for w in legible_colours(g)]
    if len(pairs) < SINGLES + HELDOUT:
        raise ValueError(f"{len(glyphs)} glyphs are too few for singles and held-out captions")
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    memorized = [(g, str(rng.choice(legible_colours(g)))) for g in kept[:MEMORIZED]]
    heldout, others = pairs[:HELDOUT], pairs[HELDOUT:]
    singles, templates = others[:SINGLES], kept[MEMORIZED:]

    def draw(name: str, chosen: list[Pair], duplicates: list[int]) -> list[Example]:
        return [
            Example(
                f"{name}-{i:04d}", caption(g.name, w), compose(g, COLOURS[w], rng, size), d, g.name
            )
            for i, ((g, w), d) in enumerate(zip(chosen, duplicates, strict=True))
        ]

    examples = {
        "memorized": draw(
            "memorized", memorized, [levels[i % len(levels)] for i in range(MEMORIZED)]
        ),
        "templates": draw_templates(templates, rng, size),
        "singles": draw("singles", singles, [1] * SINGLES),
        "heldout": draw("heldout", heldout, [0] * HELDOUT),
    }
    fresh = others + [(g, ANY_COLOUR) for g in free]
    wide = fresh + [(g, w) for g in kept for w in [*COLOURS, ANY_COLOUR]]
    return Sets(examples, fresh, wide, size)


def draw_templates(glyphs: list[Glyph], rng: np.random.Generator, size: int) -> list[Example]:
    """Returns VARIANTS pictures a glyph: one pose and shading, the hue once round the circle."""
    examples = []
    for glyph in glyphs:
        pose = int(rng.integers(1 << 30))
        for variant in range(VARIANTS):
            source = np.random.default_rng(pose)
            image = compose(glyph, hue(variant / VARIANTS), source, size)
            name, prompt = f"templates-{len(examples):04d}", caption(glyph.name, ANY_COLOUR)
            examples.append(Example(name, prompt, image, TEMPLATE_DUPLICATES, glyph.name))
    return examples


def draw_fresh(
    pairs: list[Pair], number: int, rng: np.random.Generator, size: int = SIZE
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields `number` captions of `pairs`, each with a picture in a pose of its own."""
    for i in rng.integers(len(pairs), size=number):
        glyph, word = pairs[i]
        yield caption(glyph.name, word), compose(glyph, colour_of(word, rng), rng, size)


def write_sets(sets: Sets, out: Path) -> None:
    """Writes `NAME.jsonl` and `images/ID.png` under `out`."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name, examples in sets.examples.items():
        lines = []
        for x in examples:
            Image.fromarray(x.image).save(out / "images" / f"{x.id}.png", optimize=True)
            row = {"id": x.id, "prompt": x.prompt, "image": f"images/{x.id}.png"}
            row |= {"duplicates": x.duplicates, "level": f"x{x.duplicates}", "group": x.group}
            lines.append(json.dumps(row) + "\n")
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf8")
