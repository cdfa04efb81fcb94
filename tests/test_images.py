"""One reader of images: upright, 8 bits, RGB, from every mode; anything else is one line."""

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memfast.errors import InputError
from memfast.images import FORMATS, fit, is_url, read_image, said
from memfast.limits import DEFAULT

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)  # height 5, width 7


def saved(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **how)
    return target.getvalue()


def rgb(data: bytes, **how) -> np.ndarray:
    return np.asarray(read_image(data, **how))


TURNS = {  # what a viewer does for each EXIF orientation, in numpy's words
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    notes: Counter[str] = Counter()
    data = saved(Image.fromarray(PIXELS), kind, exif=exif, **lossless)
    assert np.array_equal(rgb(data, notes=notes), TURNS[orientation](PIXELS))
    assert notes == ({"rotated": 1} if orientation > 1 else {})


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits(kind: str) -> None:
    grey = RNG.integers(0, 65_536, (5, 7), dtype=np.uint16)
    notes: Counter[str] = Counter()
    found = rgb(saved(Image.fromarray(grey), kind), notes=notes)
    assert np.array_equal(found[..., 0], np.round(grey / 65_535 * 255))
    assert np.array_equal(found[..., 0], found[..., 2])
    assert notes == {"reduced to 8 bits": 1}


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1), (np.float32, 255), (np.int32, None)])
def test_floats_and_long_integers(dtype, scale) -> None:
    values = np.linspace(0, scale or 2**31 - 1, 35).reshape(5, 7).astype(dtype)
    found = rgb(saved(Image.fromarray(values), "TIFF"))
    full = scale or 2**32 - 1
    assert np.abs(found[..., 1] - values.astype(np.float64) / full * 255).max() <= 0.51
    values.flat[3] = -1 if dtype == np.int32 else np.nan
    assert rgb(saved(Image.fromarray(values), "TIFF"))[0, 3, 0] == 0


def over(colour: tuple[int, int, int], pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return pixels * share + np.array(colour) * (1 - share)


@pytest.mark.parametrize(
    ("background", "colour"), [("white", (255,) * 3), ("#102030", (16, 32, 48))]
)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency(mode: str, background: str, colour) -> None:
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    grey = np.repeat(PIXELS[..., :1], 3, axis=2)
    pixels = PIXELS if mode == "RGBA" else grey
    bands = [*np.moveaxis(PIXELS, 2, 0), alpha] if mode == "RGBA" else [PIXELS[..., 0], alpha]
    data = saved(Image.merge(mode, [Image.fromarray(np.ascontiguousarray(b)) for b in bands]))
    notes: Counter[str] = Counter()
    found = rgb(data, background=background, notes=notes)
    assert np.abs(found - over(colour, pixels, alpha)).max() <= 1
    assert notes == {f"flattened on {background}": 1}
    assert np.array_equal(rgb(data, background=None), pixels)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_one_transparent_colour(mode: str) -> None:
    image = Image.new(mode, (4, 3), 0 if mode != "RGB" else (0, 0, 0))
    image.putpixel((1, 1), 200 if mode != "RGB" else (200, 200, 200))
    clear = (0, 0, 0) if mode == "RGB" else 0
    found = rgb(saved(image, transparency=clear))
    assert (found[0, 0] == 255).all()
    assert not (found[1, 1] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_opaque_modes_are_as_pil_converts_them(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    notes: Counter[str] = Counter()
    expected = np.asarray(Image.open(io.BytesIO(saved(image, kind))).convert("RGB"))
    assert np.array_equal(rgb(saved(image, kind), notes=notes), expected)
    assert notes == ({f"converted from {mode}": 1} if kind == "TIFF" else {})


def test_the_first_of_several_frames() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    notes: Counter[str] = Counter()
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert (rgb(data, notes=notes) == (255, 0, 0)).all()
    assert notes == {"reduced to the first frame": 1}


def test_a_damaged_exif_block_is_noted() -> None:
    notes: Counter[str] = Counter()
    data = saved(Image.fromarray(PIXELS), exif=b"Exif\0\0no such thing")
    assert np.array_equal(rgb(data, notes=notes), PIXELS)
    assert notes == {"without readable EXIF": 1}


def test_too_many_pixels_are_never_decoded() -> None:
    bomb = saved(Image.new("1", (20_000, 10_000)))
    assert len(bomb) < 100_000
    with pytest.raises(InputError, match="limit pixels"):
        read_image(bomb)
    small = DEFAULT.changed(["pixels=34"])
    with pytest.raises(InputError, match="more than 34 pixels"):
        read_image(saved(Image.fromarray(PIXELS)), small)
    before = Image.MAX_IMAGE_PIXELS
    read_image(saved(Image.fromarray(PIXELS)), DEFAULT.changed(["pixels=35"]))
    assert before == Image.MAX_IMAGE_PIXELS


def test_what_is_no_image_is_one_line_that_names_it(tmp_path: Path) -> None:
    good = saved(Image.fromarray(PIXELS))
    (tmp_path / "cut.png").write_bytes(good[:60])
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "none.png").write_bytes(b"")
    (tmp_path / "run.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "good.png").write_bytes(good)
    os.mkfifo(tmp_path / "pipe.png")
    names = ["cut.png", "text.png", "none.png", "run.eps", "pipe.png", "missing.png", "", "x" * 300]
    for path in [*(tmp_path / name for name in names), Path("/dev/zero")]:
        for source in (path, str(path)):
            with pytest.raises(InputError) as caught:
                read_image(source)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="limit image_bytes"):
        read_image(tmp_path / "good.png", DEFAULT.changed(["image_bytes=10"]))
    for source in ("http://x/y.png", "a\0b"):
        with pytest.raises(InputError, match="image"):
            read_image(source)
    assert is_url("http://x/y.png")
    assert not is_url("embedded://1:/x")
    assert not is_url("x.png")


def test_no_format_runs_another_program() -> None:
    assert not {"EPS", "PSD", "WMF", "PDF", "FITS"} & set(FORMATS)


def test_fitting() -> None:
    image = Image.fromarray(PIXELS)
    notes: Counter[str] = Counter()
    assert np.array_equal(fit(image, (5, 7), notes), (PIXELS / np.float32(255)).transpose(2, 0, 1))
    assert not notes
    halves = np.zeros((8, 40, 3), np.uint8)
    halves[:, 3:37] = 255  # the central square is white, and what the filter sees around it
    assert (fit(Image.fromarray(halves), (2, 2), notes) == 1).all()
    assert fit(Image.fromarray(halves), (16, 80), notes).shape == (3, 16, 80)
    assert notes == {"cropped": 1, "scaled": 1}
    assert said(notes) == "1 cropped, 1 scaled"


def test_fitting_agrees_with_the_pipelines_own() -> None:
    """diffusers' preprocess with resize_mode "crop" is the same crop and filter, to 8 bits."""
    from diffusers.image_processor import VaeImageProcessor

    smooth = np.add.outer(np.arange(40), np.arange(64)).astype(np.uint8)
    image = Image.fromarray(np.stack([smooth * 2, smooth, 255 - smooth], 2))
    theirs = VaeImageProcessor().preprocess(image, 16, 16, resize_mode="crop")[0] / 2 + 0.5
    assert np.abs(fit(image, (16, 16)) - theirs.numpy()).max() < 0.02
