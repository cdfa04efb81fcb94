"""The names of what memfast wrote in a folder: nothing else in it is ever deleted."""

import os
from collections.abc import Iterable
from pathlib import Path

from memfast.errors import InputError, reading, some, writing
from memfast.files.atomic import atomic_create, atomic_write_text, text_writer
from memfast.files.unfinished import MARK

NAME = ".memfast"
LOCK = ".memfast.lock"
_FIRST = "memfast "  # then the kind of folder; on each further line a name and the END
_END = "/"  # without it a line was cut short


class Ledger:
    """The ledger of a folder of one kind ("audit", "model", …), kept in its file .memfast.

    Names are relative to the folder, with / between parts.
    """

    def __init__(self, folder: str | Path, kind: str) -> None:
        self.folder, self.kind = Path(folder), kind

    @property
    def path(self) -> Path:
        return self.folder / NAME

    def check(self) -> None:
        """Raise InputError for a folder with another's ledger, or that has none but holds
        something."""
        if not self.path.exists() and (found := self.foreign()) and not self.path.exists():
            # no other process has begun it meanwhile
            raise InputError(f"{self.folder}: holds {some(found)}, which memfast did not write")
        if self.path.exists():
            self.names()

    def claim(self) -> None:
        """Begin the ledger, or go on with one of the same kind. Raises InputError where `check`
        does."""
        self.check()
        first = text_writer(f"{_FIRST}{self.kind}")
        if not self.path.exists() and not atomic_create(self.path, first):
            self.names()

    def add(self, *names: str) -> None:
        """Note files before they are written. Raises InputError for one that is somebody else's."""
        new = sorted(set(names) - self.names())
        for name in new:
            if os.path.lexists(self._inside(name)):
                raise InputError(f"{self.folder / name}: is there, and memfast did not write it")
        with (
            writing(self.path),
            open(self.path, "a", encoding="utf-8", errors="surrogateescape") as handle,
        ):
            handle.write(_lines(new))

    def names(self) -> set[str]:
        """What was noted. Raises InputError where there is no ledger, or one of another kind."""
        if not self.path.is_file():
            raise InputError(f"{self.folder}: was not made by memfast (it has no {NAME})")
        with reading(self.path):
            first, *names = self.path.read_text("utf-8", "surrogateescape").split("\n")
        if first != f"{_FIRST}{self.kind}":
            kind = first.removeprefix(_FIRST)[:40]
            raise InputError(f"{self.folder}: holds {kind!r} of memfast, not {self.kind!r}")
        return {name[:-1] for name in names if name.endswith(_END)}

    def foreign(self) -> list[str]:
        """The files in the folder that are not memfast's."""
        ours = self.names() if self.path.exists() else set()
        found = _files(self.folder) if self.folder.is_dir() else []
        return sorted(set(found) - ours - {NAME, LOCK})

    def clear(self) -> None:
        """Delete what was noted, folders that this empties, and last the ledger."""
        self._delete(self.names())
        with writing(self.path):
            self.path.unlink(missing_ok=True)

    def forget(self, names: Iterable[str]) -> None:
        """Delete some of what was noted, and folders that this empties."""
        gone = set(names) & (noted := self.names())
        self._delete(gone)
        atomic_write_text(self.path, f"{_FIRST}{self.kind}{_lines(sorted(noted - gone))}")

    def _delete(self, names: Iterable[str]) -> None:
        folders: set[Path] = set()
        with writing(self.folder):
            for name in names:
                path = self._inside(name)
                folders |= {self.folder / part for part in Path(name).parents if part.name}
                if path.is_file() or path.is_symlink():
                    path.unlink(missing_ok=True)
            for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _inside(self, name: str) -> Path:
        """The path of a name, which must not lead out of the folder."""
        path = self.folder / name
        with reading(self.path):  # whatever bytes make of a name
            inside = path.parent.resolve().is_relative_to(self.folder.resolve())
        if "\n" in name or not inside:
            raise InputError(f"{self.path}: {name[:80]!r} is not a file in its folder")
        return path


def note_file(folder: Path, name: str) -> None:
    """Note a file before it is written, in the ledger of a folder that has one, of any kind."""
    path = folder / NAME
    if path.is_file():
        with reading(path):
            first = path.read_text("utf-8", "surrogateescape").partition("\n")[0]
        Ledger(folder, first.removeprefix(_FIRST)).add(name)


def write_ledger(folder: Path, kind: str) -> None:
    """A ledger of everything that is in `folder`."""
    atomic_write_text(folder / NAME, f"{_FIRST}{kind}{_lines(sorted(_files(folder)))}")


def _lines(names: Iterable[str]) -> str:
    return "".join(f"\n{name}{_END}" for name in names)


def _files(folder: Path) -> Iterable[str]:
    """Everything in a folder but folders and what is unfinished, by relative name."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if (path.is_symlink() or not path.is_dir()) and not any(map(MARK.fullmatch, name.parts)):
            yield name.as_posix()
