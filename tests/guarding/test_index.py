"""An index of training images: what is in it is found, what is not is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memfast.demo import DATA
from memfast.errors import InputError
from memfast.images import fit, read_image
from memfast.measuring.index import ENDINGS, FEATURES, RECORD, ImageIndex, index_images

PICTURES = sorted((DATA / "images").glob("memorized-*.png"))
NETWORK = "efficientnet-lite0-spatial"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two sizes, one in a folder below, and files that are none."""
    root = tmp_path_factory.mktemp("images")
    (root / "below").mkdir()
    for n, path in enumerate(PICTURES[:5]):
        Image.open(path).convert("RGB").save(root / f"{n}.png")
    wide = Image.open(PICTURES[5]).convert("RGB").resize((80, 64))
    wide.save(root / "below" / "5.jpg")
    (root / "broken.png").write_bytes(b"no picture")
    (root / "list.txt").write_text("no picture either")
    return root


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    out = tmp_path_factory.mktemp("made") / "index"
    told = index_images(folder, out, NETWORK)
    assert told["images"] == 6
    assert [note.split(":")[0] for note in told["notes"]] == ["image broken.png"]
    return ImageIndex.open(out)


def loaded(path: Path) -> torch.Tensor:
    return torch.from_numpy(fit(read_image(path), (32, 32)).copy())


def test_a_training_image_is_its_own_nearest(folder: Path, index: ImageIndex) -> None:
    files = [Path(file).name for file in index.files]
    assert sorted(files) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.jpg"]
    images = torch.stack([loaded(folder / f"{n}.png") for n in range(5)])
    cosines, places = index.nearest(images, 2)
    assert [files[place] for place in places[:, 0].tolist()] == [f"{n}.png" for n in range(5)]
    assert float(cosines[:, 0].min()) > 0.999
    assert (cosines[:, 0] > cosines[:, 1]).all()


def test_copies_are_named_and_others_are_not(folder: Path, index: ImageIndex) -> None:
    """A copy a little darker is one; pictures of something else are not."""
    copy = loaded(folder / "2.png") * 0.95
    found = index.copies(torch.stack([copy, *map(loaded, PICTURES[6:9])]))
    assert Path(found[0] or "").name == "2.png"
    assert found[1:] == [None] * 3


def test_refusals_are_one_line(folder: Path, index: ImageIndex, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    for given, network, says in (
        (tmp_path / "none", NETWORK, "no such folder"),
        (empty, NETWORK, "none can be used"),
        (folder, "clip", "network 'clip': must be one of efficientnet-lite0-spatial, sscd"),
        (folder, "sscd_disc_large", "no file was given"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            index_images(given, out, network)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    with pytest.raises(InputError, match="no index of images"):
        ImageIndex.open(empty)


def test_a_damaged_index_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    index_images([folder / "0.png", folder / "1.png"], out, NETWORK)
    np.save(out / FEATURES, np.load(out / FEATURES)[:1])
    with pytest.raises(InputError, match="damaged"):
        ImageIndex.open(out)
    (out / RECORD).write_text("{}")
    with pytest.raises(InputError, match=RECORD):
        ImageIndex.open(out)
    assert ".png" in ENDINGS
