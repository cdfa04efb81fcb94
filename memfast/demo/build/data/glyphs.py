"""Emoji glyphs: colour bitmaps of Noto Color Emoji under their Unicode names, chosen to look apart.

Debian ships both sources (packages fonts-noto-color-emoji and unicode-data). Left out: flags,
people, faces, gestures, signs with writing, weapons and the like, thin shapes that vanish at 32
pixels, and whatever looks almost like a glyph already taken.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")

GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
EXTRA_SUBGROUPS = ("face-costume", "monkey-face")
DROPPED_SUBGROUPS = ("place-religious", "place-map", "time", "award-medal", "book-paper")
DROPPED_WORDS = (
    "poo|moon|sun behind|cloud with|japan|pistol|dagger|bomb|cigarette|coffin|syringe|blood|knife|"
    "briefs|bikini|hotel|urn|headstone|military|banknote|wheelchair|cane|speaker|mailbox|toilet|"
    "oncoming|with slash|with pen|with key|with arrow|crossed swords|placard|card|hamsa|liberty|"
    "station|hospital|convenience|office|pager|fax|x-ray|tray|ballot|cableway|suspension|receipt|"
    "cut of meat|canned|curry|foggy|construction|spiral calendar|file"
)
SIDE = 68  # glyphs are kept at half the font's own 136 pixels
MINIMUM_COVER = 0.28  # share of opaque pixels
MINIMUM_DISTANCE = 0.17  # root mean square between two glyphs at 16 x 16 on grey, in [0, 1]


@dataclass(frozen=True, slots=True)
class Glyph:
    """One emoji: its lower-case Unicode short name and an RGBA image of SIDE x SIDE pixels."""

    name: str
    image: Image.Image


def read_names(path: Path = NAMES) -> list[tuple[str, int]]:
    """Returns (name, code point) of the wanted single-code-point emoji, in Unicode's order."""
    wanted, group, subgroup = [], "", ""
    for line in path.read_text(encoding="utf8").splitlines():
        if line.startswith("# group:"):
            group = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        match = re.match(r"([0-9A-F]+)(?: FE0F)? *; fully-qualified *# \S+ E[\d.]+ (.+)$", line)
        if not match or subgroup in DROPPED_SUBGROUPS:
            continue
        name = match[2].lower()
        if group not in GROUPS and subgroup not in EXTRA_SUBGROUPS:
            continue
        if re.search(DROPPED_WORDS, name) or not re.fullmatch(r"[a-z0-9 -]+", name):
            continue
        wanted.append((name, int(match[1], 16)))
    return wanted


def read_glyphs(font: Path = FONT, names: Path = NAMES) -> list[Glyph]:
    """Returns the glyphs of `read_names` that the font has, before any choice by look."""
    face = TTFont(font)
    characters, bitmaps = face.getBestCmap(), face["CBDT"].strikeData[0]
    found = []
    for name, code in read_names(names):
        key = characters.get(code)
        if key in bitmaps:
            picture = Image.open(io.BytesIO(bitmaps[key].imageData)).convert("RGBA")
            square = Image.new("RGBA", (136, 136))
            square.paste(picture, ((136 - picture.width) // 2, (136 - picture.height) // 2))
            found.append(Glyph(name, square.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return found


def look(glyph: Glyph) -> np.ndarray:
    """Returns the glyph at 16 x 16 on grey, flattened, in [0, 1]: two are compared by it."""
    grey = Image.new("RGBA", glyph.image.size, (128, 128, 128, 255))
    small = Image.alpha_composite(grey, glyph.image).convert("RGB").resize((16, 16))
    return np.asarray(small, np.float32).ravel() / 255


def choose(glyphs: list[Glyph], distance: float = MINIMUM_DISTANCE) -> list[Glyph]:
    """Returns the glyphs that cover enough and lie at least `distance` from every one before."""
    chosen: list[Glyph] = []
    looks: list[np.ndarray] = []
    for glyph in glyphs:
        if (np.asarray(glyph.image)[..., 3] > 128).mean() < MINIMUM_COVER:
            continue
        own, mirrored = look(glyph), look(Glyph(glyph.name, glyph.image.transpose(0)))
        gaps = [min(np.mean((own - x) ** 2), np.mean((mirrored - x) ** 2)) for x in looks]
        if not gaps or min(gaps) >= distance**2:
            chosen.append(glyph)
            looks.append(own)
    return chosen
