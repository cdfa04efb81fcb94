"""Images as pipelines give them: PIL's, arrays, tensors, latents, frames of a video."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from memfast.errors import InputError

NO_PICTURE = "policy verify: compares pictures; output_type must be pil, np or pt"


def pixels(image: Any) -> Tensor:
    """An image as a pipeline gives it, [3, height, width] in [0, 1]. Raises InputError for what
    is none: latents, or a video."""
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"), np.float32) / 255
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image).movedim(-1, 0)
    if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != 3:
        raise InputError(NO_PICTURE)
    return image.float().cpu()


def blank(images: Any, places: Sequence[int]) -> None:
    """Black images at these places of what a pipeline made, in place."""
    for place in places:
        images[place] = _black(images[place])


def _black(image: Any) -> Any:
    if isinstance(image, Image.Image):
        return Image.new(image.mode, image.size)
    if isinstance(image, list):
        return [_black(frame) for frame in image]
    return np.zeros_like(image) if isinstance(image, np.ndarray) else torch.zeros_like(image)
