"""Pictures of a run: kept as files with an index, and shown on a page that stays small."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from memfast.errors import InputError
from memfast.files import atomic_write, atomic_write_json, read_json
from memfast.images import read_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from memfast.measuring.cases import Cases
    from memfast.measuring.similarity import Toolbox

INDEX, FOLDER = "pictures.json", "pictures"
ROOM = 900_000  # characters of pictures inside a page; further ones are linked
SMALL = 128  # pixels: up to here a picture is kept and shown as it is
THUMBNAIL = 224


@dataclass(frozen=True)
class Shot:
    """One picture [3, height, width] in [0, 1] of a card; copy: None where nobody can tell."""

    name: str
    image: "Tensor | None"
    scores: Mapping[str, float] = field(default_factory=dict)
    copy: bool | None = None


@dataclass(frozen=True)
class Album:
    """Cards of one heading: a caption with its pictures."""

    heading: str
    cards: Sequence[tuple[str, Sequence[Shot]]]
    note: str = ""


def keep_pictures(folder: Path, albums: Iterable[Album]) -> list[str]:
    """Write pictures.json and pictures/; returns the names of the files, relative to `folder`."""
    from memfast.pipelines.pictures import to_pil

    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    kept, names = [], [INDEX]
    for number, album in enumerate(albums, 1):
        cards = []
        for place, (caption, shots) in enumerate(album.cards):
            shown = []
            for column, shot in enumerate(shots):
                if shot.image is None:
                    continue
                image = to_pil(shot.image)
                kind = "png" if max(image.size) <= SMALL else "jpg"
                name = f"{FOLDER}/{number}-{place:04d}-{column:02d}.{kind}"
                atomic_write(folder / name, lambda path, i=image, k=kind: _save(i, path, k))
                entry = {"name": shot.name, "file": name, "copy": shot.copy}
                shown.append(entry | {"scores": dict(shot.scores)})
                names.append(name)
            cards.append({"caption": caption, "shots": shown})
        kept.append({"heading": album.heading, "note": album.note, "cards": cards})
    atomic_write_json(folder / INDEX, {"albums": kept})
    return names


def judged(
    tools: "Toolbox", cases: "Cases", pictures: Mapping[str, "Tensor"], library: "Tensor"
) -> list[tuple[str, list[Shot]]]:
    """Cards: each caption's training image, and its picture of every name with its scores.

    A copy passes the threshold of every headline metric (of all, where none is at hand).
    """
    from memfast.measuring.replication import score_images
    from memfast.measuring.similarity import HEADLINE, METRICS, Toolbox

    able = tuple(m for m in tools.metrics if m.name in HEADLINE) or tools.metrics
    tools = Toolbox(able, tools.networks, {})
    cards = [
        (case.text, [Shot("training image", case.images[0] if len(case.images) else None)])
        for case in cases.cases
    ]
    for name, images in pictures.items():
        found = score_images(tools, images[: len(cards)], cases, library)
        for place, ((_, shots), case) in enumerate(zip(cards, cases.cases, strict=True)):
            scores = {m: float(of[place]) for m, of in found.items() if len(case.images)}
            scores = {m: value for m, value in scores.items() if value == value}
            copies = [bool(METRICS[m].copies(found[m][place])) for m in scores]
            shots.append(Shot(name, images[place], scores, all(copies) if copies else None))
    return cards


def read_albums(folder: Path) -> list[dict[str, Any]]:
    """What `keep_pictures` wrote, [] where it wrote nothing: heading, note, cards."""
    if not (folder / INDEX).is_file():
        return []
    found = read_json(folder / INDEX)
    if not isinstance(found, dict) or not isinstance(found.get("albums"), list):
        raise InputError(f"{folder / INDEX}: is not an index of pictures")
    return found["albums"]


class Embedder:
    """Puts pictures into a page as data while there is room, and links the others."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder, self.room = folder, room

    def __call__(self, name: str) -> dict[str, Any]:
        """How a page shows a file of the folder: source, full (of a thumbnail), small."""
        path, link = self.folder / name, quote(name)
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise InputError(f"{name}: lies outside its folder")
            image = read_image(path)
        except InputError:
            return {"source": "data:,", "full": None, "small": False}
        small = max(image.size) <= SMALL
        shown = data_uri(image) if self.room > 0 else ""
        self.room -= len(shown)
        return {"source": shown or link, "full": None if small else link, "small": small}


def data_uri(image: "Image") -> str:
    """The picture, or a thumbnail of a large one, as a data URI."""
    small = max(image.size) <= SMALL
    if not small:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    kind, buffer = ("png" if small else "jpeg"), BytesIO()
    image.save(buffer, kind, optimize=True)
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"


def _save(image: "Image", path: Path, kind: str) -> None:
    image.save(path, "PNG" if kind == "png" else "JPEG", quality=92)
