"""An index of training images: which of them all is an image nearest to, by a network's features.

A folder of `features.npy`, a unit row an image, `images.txt`, their files, and `index.json`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from memfast.errors import InputError, reading
from memfast.files import read_record, replace_folder, there, write_record
from memfast.images import fit, read_image, without_place
from memfast.measuring.networks.backbones import MissingNetwork
from memfast.measuring.networks.table import load_network
from memfast.measuring.similarity import METRICS, Metric
from memfast.progress import Stage, stages

KIND, FORMAT = "image index", 1
FEATURES, FILES, RECORD = "features.npy", "images.txt", "index.json"
LARGEST, AT_ONCE = 320, 64  # pixels of a side; images
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2")

Images = Float[Tensor, "images 3 height width"]


def judging() -> dict[str, Metric]:
    """The networks that an index may be of, each with the metric that says what a copy is."""
    plain = (metric for metric in METRICS.values() if metric.network and not metric.masked)
    return {metric.network: metric for metric in plain if metric.network}


class ImageIndex:
    """Made by `index_images`, opened by `open`. files: of the training images, in order.

    network: its name. threshold: an image whose cosine to a training image is above it is a copy.
    """

    def __init__(
        self, features: np.ndarray, files: list[str], network: str, weights: str | None = None
    ) -> None:
        self.files, self.network = files, network
        self.threshold = judging()[network].threshold
        self._embed = _network(network, weights)
        self._found = _faiss().IndexFlatIP(features.shape[1])
        self._found.add(np.ascontiguousarray(features, np.float32))

    @classmethod
    def open(cls, folder: str | Path, weights: str | None = None) -> "ImageIndex":
        """The index in a folder; weights: its network's file, where it needs one.

        Raises InputError for what is none, and for a network that is not there.
        """
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise InputError(f"{folder}: no index of images (has no {RECORD})")
        record = read_record(folder / RECORD, KIND, FORMAT)
        with reading(folder):
            network, files = record["network"], (folder / FILES).read_text().splitlines()
            features = np.load(folder / FEATURES, mmap_mode="r", allow_pickle=False)
            if len(features) != len(files):
                raise InputError(f"{folder}: damaged ({len(features)} rows, {len(files)} files)")
            return cls(features, files, network, weights)

    def __len__(self) -> int:
        return len(self.files)

    def nearest(
        self, images: Images, count: int = 1
    ) -> tuple[Float[Tensor, "images count"], Int64[Tensor, "images count"]]:
        """Cosines to the nearest training images of each, the nearest first, and their places."""
        features = F.normalize(self._embed(images).float(), dim=1)
        found = self._found.search(features.cpu().numpy(), min(count, len(self)))
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    def copies(self, images: Images) -> list[str | None]:
        """Of each image the training image that it is a copy of, or None."""
        cosines, places = self.nearest(images)
        pairs = zip(cosines[:, 0].tolist(), places[:, 0].tolist(), strict=True)
        return [self.files[place] if near > self.threshold else None for near, place in pairs]


def index_images(
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    network: str,
    *,
    weights: str | None = None,
    overwrite: bool = False,
    progress: bool | Stage = False,
) -> dict[str, Any]:
    """Make an index of image files, or of all below a folder, in the folder `out`.

    network: an entry of `judging()`; weights: its file, where it needs one. Images are read as they
    are needed: memory is that of their features. progress: as `audit`'s. Returns what the record
    says: how many are in it, and notes on those that cannot be read, which are left out.
    Raises InputError for no usable image, an unknown network, and an `out` that cannot be written.
    """
    if network not in judging():
        raise InputError(f"network {network!r}: must be one of {', '.join(judging())}")
    files = _files(images)
    embed, advance = _network(network, weights), stages(progress)("indexing", len(files))
    kept: list[str] = []
    notes: list[str] = []
    rows: list[np.ndarray] = []
    for paths, batch in _batches(files, notes):
        features = F.normalize(embed(batch).float(), dim=1)
        rows.append(features.cpu().numpy().astype(np.float32))
        kept += paths
        advance(len(paths))
    advance(len(notes))
    if not kept:
        raise InputError(f"images: none can be used ({notes[0] if notes else 'there is none'})")
    record = {"network": network, "images": len(kept), "notes": notes}

    def write(folder: Path) -> None:
        folder.mkdir()
        np.save(folder / FEATURES, np.concatenate(rows))
        (folder / FILES).write_text("".join(f"{path}\n" for path in kept))
        write_record(folder / RECORD, KIND, FORMAT, record)

    replace_folder(out, write, KIND, overwrite)
    return record


def _files(images: str | Path | Sequence[str | Path]) -> list[str]:
    if not isinstance(images, str | Path):
        return [str(path) for path in images]
    folder = there(images, "folder")
    return sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def _batches(files: Sequence[str], notes: list[str]) -> Iterator[tuple[list[str], Images]]:
    """The images, cropped to squares, those of one size together."""

    def read() -> Iterator[tuple[str, Tensor]]:
        for file in files:
            try:
                image = read_image(file)
            except InputError as error:
                notes.append(without_place(error, file))
                continue
            side = min(*image.size, LARGEST)
            yield file, torch.from_numpy(fit(image, (side, side)).copy())

    for _, alike in groupby(read(), lambda item: item[1].shape):
        batch: list[tuple[str, Tensor]] = []
        for item in alike:
            batch.append(item)
            if len(batch) == AT_ONCE:
                yield _joined(batch)
                batch = []
        if batch:
            yield _joined(batch)


def _joined(batch: Sequence[tuple[str, Tensor]]) -> tuple[list[str], Images]:
    return [file for file, _ in batch], torch.stack([image for _, image in batch])


def _network(name: str, weights: str | None) -> Callable[[Tensor], Tensor]:
    try:
        return load_network(name, weights)
    except MissingNetwork as error:
        raise InputError(f"network {error}") from error


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError("index: needs faiss; pip install 'memfast[index]'") from error
    return faiss
