"""Images for a page that stands alone."""

from base64 import b64encode
from io import BytesIO

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def to_pil(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """An RGB picture of a tensor in [0, 1]; values outside are clipped."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def data_uri(image: Float[Tensor, "3 height width"]) -> str:
    """The image as a PNG data URI."""
    buffer = BytesIO()
    to_pil(image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
