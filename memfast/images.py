"""The one reader of images: whatever a training set holds, as upright RGB.

`read_image` opens, `fit` brings to a model's size, and both count what they did in `notes`, so that
a summary can say "3 rotated, 2 flattened on white".
"""

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfast.errors import InputError, one_line
from memfast.limits import Limits, current
from memfast.prompts.sources.embedded import EMBEDDED, read_embedded

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
"""What is opened: formats of pixels alone, none that another program would be run for."""
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 0x0112  # the EXIF tag


def is_url(source: str) -> bool:
    """Whether a prompt's `image` is an address on the net, which memfast never fetches."""
    return "://" in source and not source.startswith(EMBEDDED)


def read_image(
    source: "str | Path | bytes",
    limits: Limits | None = None,
    background: str | None = "white",
    notes: "Counter[str] | None" = None,
) -> "Image":
    """An image as RGB: turned as its EXIF orientation says, of 8 bits, transparency laid over
    `background` (any colour that PIL knows; None drops the alpha channel).

    source: a path, the bytes of a file, or a Prompt's `image`. limits: `memfast.limits.current()`
    where None. notes: counts what was done.
    Raises InputError, naming the source, for what is no image file, damaged or beyond `limits`.
    """
    name = "image of some bytes" if isinstance(source, bytes) else f"image {source}"
    notes = Counter() if notes is None else notes
    limits = limits or current()
    try:
        with _opened(source, limits) as handle, _guarded(limits) as formats:
            from PIL import Image

            with Image.open(handle, formats=formats) as image:
                if getattr(image, "is_animated", False) and image.format != "MPO":
                    notes["reduced to the first frame"] += 1
                return _flat(_upright(image, notes), background, notes)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # PIL raises nearly everything
        raise InputError(f"{name}: cannot be read ({one_line(error)})") from error


def fit(
    image: "Image", size: tuple[int, int], notes: "Counter[str] | None" = None
) -> "Float32[np.ndarray, '3 height width']":
    """The largest central part of the shape of `size` (height, width), scaled to it (Lanczos), in
    [0, 1]; an image of that size keeps its pixels."""
    import numpy as np
    from PIL import Image, ImageOps

    height, width = size
    if image.size != (width, height):
        if notes is not None:
            notes["cropped" if image.width * height != image.height * width else "scaled"] += 1
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)


def without_place(error: InputError, source: str) -> str:
    """What an error says of an image, which it names by its file's name alone: for publishing."""
    return str(error).replace(source, source.replace("\\", "/").rpartition("/")[2])


def said(notes: Mapping[str, int]) -> str:
    """Notes as a line for people: "3 rotated, 2 flattened on white"."""
    return ", ".join(f"{count} {what}" for what, count in notes.items())


def _opened(source: "str | Path | bytes", limits: Limits) -> Any:
    if isinstance(source, str) and source.startswith(EMBEDDED):
        source = read_embedded(source, limits)
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str) and is_url(source):
        raise InputError("is on the net; memfast fetches nothing")
    path = Path(source)
    if not path.exists():
        raise InputError("no such file")
    if not path.is_file():  # a pipe or a device would block, or never end
        raise InputError("not a file")
    if path.stat().st_size > limits.image_bytes:
        raise InputError(f"more than {limits.image_bytes} bytes (limit image_bytes)")
    return open(path, "rb")


@contextmanager
def _guarded(limits: Limits) -> Iterator[list[str]]:
    """PIL with our bound on pixels, which some of its formats find only while they decode, and
    without its warnings; the formats that it can read here."""
    from PIL import Image

    Image.init()
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = limits.pixels
        try:
            yield [name for name in FORMATS if name in Image.OPEN]
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(f"more than {limits.pixels} pixels (limit pixels)") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _upright(image: "Image", notes: "Counter[str]") -> "Image":
    """The image, loaded and turned as its EXIF says (PIL turns a TIFF by itself on loading)."""
    from PIL import ImageOps

    try:
        turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # a damaged EXIF block says nothing of the pixels
        notes["without readable EXIF"] += 1
        return image
    image.load()
    if turned:
        notes["rotated"] += 1
    return ImageOps.exif_transpose(image) if turned else image


def _flat(image: "Image", background: str | None, notes: "Counter[str]") -> "Image":
    """RGB of 8 bits, from any mode."""
    from PIL import Image

    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        notes["reduced to 8 bits"] += 1
        return _eight_bits(image).convert("RGB")
    if image.mode not in ALPHA and "transparency" not in image.info:
        if image.mode in ("CMYK", "HSV", "YCbCr"):
            notes[f"converted from {image.mode}"] += 1
        return image.convert("RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    alpha = image.getchannel("A")
    if background is None or alpha.histogram()[255] == image.width * image.height:
        return image.convert("RGB")
    notes[f"flattened on {background}"] += 1
    flat = Image.new("RGB", image.size, background)
    flat.paste(image, mask=alpha)
    return flat


def _eight_bits(image: "Image") -> "Image":
    """Grey of 16 or 32 bits, or floats, as 8 bits. Full scale is 1 for floats within [0, 1], else
    the least of 255, 65,535 and 2³² − 1 that holds every value (65,535 at least for integers)."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0.0, neginf=0.0)
    scales = (1, 255, 65_535) if image.mode == "F" else (65_535,)
    top = float(values.max(initial=0))
    scale = next((scale for scale in scales if top <= scale), 2**32 - 1)
    return Image.fromarray((values / scale * 255).round().clip(0, 255).astype(np.uint8))
