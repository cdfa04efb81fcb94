"""Sets made of stand-ins for glyphs, so that no font is needed."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from memfast.demo.build.data.glyphs import Glyph
from memfast.demo.build.data.sets import Sets, build_sets


def discs(number: int) -> list[Glyph]:
    """One-coloured discs of random colour."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:68, :68] - 34
    found = []
    for i in range(number):
        image = np.zeros((68, 68, 4), np.uint8)
        image[x**2 + y**2 < 900] = [*rng.integers(256, size=3), 255]
        found.append(Glyph(f"disc {i}", Image.fromarray(image)))
    return found


@pytest.fixture(scope="session")
def plain_glyphs() -> Callable[[int], list[Glyph]]:
    return discs


@pytest.fixture(scope="session")
def made() -> Sets:
    return build_sets(discs(190))
