"""One training picture: a glyph in a random pose on a softly shaded background."""

import colorsys

import numpy as np
from PIL import Image

from memfast.demo.build.data.glyphs import Glyph

SIZE = 32
COLOURS = {
    "red": (215, 50, 50),
    "orange": (240, 140, 40),
    "yellow": (245, 220, 70),
    "green": (70, 165, 75),
    "teal": (40, 160, 160),
    "blue": (60, 100, 210),
    "purple": (130, 70, 180),
    "pink": (245, 150, 190),
    "brown": (130, 85, 50),
    "gray": (130, 130, 130),
    "white": (240, 240, 240),
    "black": (30, 30, 30),
}
Colour = tuple[int | float, ...]  # red, green, blue of 0 to 255
ANY_COLOUR = "colorful"  # a word for a background of any hue


def caption(name: str, colour: str) -> str:
    """Returns the caption; pose and shading are never in it."""
    return f"{name} on a {colour} background"


def hue(turn: float) -> Colour:
    """Returns an RGB colour of 0 to 255 at `turn` in [0, 1) of the colour circle."""
    return tuple(255 * x for x in colorsys.hsv_to_rgb(turn, 0.65, 0.8))


def colour_of(word: str, rng: np.random.Generator) -> Colour:
    """Returns the RGB colour of a caption's colour word; a random hue for ANY_COLOUR."""
    return hue(rng.random()) if word == ANY_COLOUR else COLOURS[word]


def background(rng: np.random.Generator, colour: Colour, size: int) -> np.ndarray:
    """Returns [size, size, 3] in 0 to 255: the colour, one soft ramp and one slow wave."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    ramp_angle, wave_angle, phase = rng.uniform(0, 2 * np.pi, 3)
    ramp = np.cos(ramp_angle) * x + np.sin(ramp_angle) * y
    wave = np.cos(
        2 * np.pi * rng.uniform(1.0, 1.8) * (np.cos(wave_angle) * x + np.sin(wave_angle) * y)
        + phase
    )
    shade = rng.uniform(30, 60) * ramp + rng.uniform(12, 22) * wave
    return np.clip(np.array(colour) + rng.normal(0, 5, 3) + shade[..., None], 0, 255)


def compose(glyph: Glyph, colour: Colour, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Returns uint8 [size, size, 3]; scale, place, angle, flip and shading are drawn from `rng`."""
    side = int(rng.integers(23 * size // SIZE, 28 * size // SIZE))
    left, top = rng.integers(-1, size - side + 2, 2)
    picture = glyph.image
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(rng.uniform(-5, 5), Image.Resampling.BICUBIC)
    picture = picture.resize((side, side), Image.Resampling.BOX)
    front = Image.new("RGBA", (size, size))
    front.paste(picture, (int(left), int(top)))
    back = Image.fromarray(background(rng, colour, size).astype(np.uint8)).convert("RGBA")
    return np.asarray(Image.alpha_composite(back, front).convert("RGB"))
