"""The one reader of images."""

from pathlib import Path
from typing import Any

from memfast.errors import InputError


def is_url(source: str) -> bool:
    """Whether a prompt's `image` is an address on the net, which memfast never fetches."""
    return "://" in source


def read_image(source: str | Path) -> Any:
    """An image as RGB. Raises InputError where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except OSError as error:
        raise InputError(f"image {source}: cannot be read ({error})") from error


def fit(image: Any, size: tuple[int, int]) -> Any:
    """The largest central part of the shape of `size` (height, width), scaled to it, in [0, 1]."""
    import numpy as np
    from PIL import Image, ImageOps

    height, width = size
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
