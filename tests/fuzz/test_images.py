"""Image files, damaged: RGB, or one line."""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from memfast.images import fit, read_image
from memfast.limits import DEFAULT
from tests.fuzz.budget import damaged, fuzzed, refused

SMALL = DEFAULT.changed(["pixels=1e6"])
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8))


def made() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    wanted = [("PNG", m) for m in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")]
    wanted += [("TIFF", m) for m in ("L", "RGB", "CMYK", "F", "I")]
    wanted += [("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB")]
    wanted += [("PPM", "RGB"), ("ICO", "RGBA"), ("JPEG2000", "RGB")]
    files = []
    for kind, mode in wanted:
        target = io.BytesIO()
        how = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
        image = NOISE.convert("L").convert("I;16") if mode == "I;16" else NOISE.convert(mode)
        image.save(target, kind, **how)
        files.append(target.getvalue())
    return files


FILES = made()


@fuzzed(400, content=damaged(st.sampled_from(FILES)) | st.binary(max_size=40))
def test_any_image(content: bytes) -> None:
    before = Image.MAX_IMAGE_PIXELS
    image = refused(lambda: read_image(content, SMALL), "image")
    assert before == Image.MAX_IMAGE_PIXELS
    if image is not None:
        assert image.mode == "RGB"
        assert image.width * image.height <= SMALL.pixels
        if min(image.size) and max(image.size) < 1_000:
            pixels = fit(image, (4, 6))
            assert pixels.shape == (3, 4, 6)
            assert 0 <= pixels.min() <= pixels.max() <= 1
