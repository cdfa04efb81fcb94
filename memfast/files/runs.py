"""The folder that a run works in: locked, claimed, and bound to what was asked for."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from memfast.errors import InputError, writing
from memfast.files.atomic import to_json
from memfast.files.folders import check_out, try_out
from memfast.files.ledger import Ledger
from memfast.files.lock import locked
from memfast.files.records import first_difference, read_record, write_record
from memfast.files.unfinished import sweep_below, unfinished


class Run:
    """A run of one kind ("audit", "evaluation") in its folder; `opened` makes it.

    Its record, a JSON file named `record`, holds the identity: what the results depend on. `hash`
    identifies that: every file that the run reads again carries it.
    """

    def __init__(self, folder: Path, kind: str, form: int, record: str) -> None:
        self.folder, self.kind, self.form, self.record = folder, kind, form, record
        self.ledger = Ledger(folder, kind)

    @classmethod
    @contextmanager
    def opened(
        cls, folder: str | Path, kind: str, form: int, record: str, *, shared: bool = False
    ) -> "Iterator[Run]":
        """The folder, made if need be and locked; alone or with others that ask for it `shared`.
        What processes that ended left unfinished in it is deleted.

        Nothing is written before `begin`. Raises InputError for what cannot be written, a folder
        that holds anything but such a run, and while another process works there.
        """
        folder = check_out(folder, overwrite=True)
        try_out(folder / record)
        run, made = cls(folder, kind, form, record), not folder.exists()
        run.ledger.check()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder, shared):
                sweep_below(folder)
                yield run
        finally:
            if made:
                with suppress(OSError):
                    folder.rmdir()  # nothing was begun

    def begin(self, identity: Mapping[str, Any], overwrite: bool = False) -> None:
        """Bind the folder to `identity`, or go on where it is bound to the same.

        overwrite: delete what a run of other settings left. Raises InputError for such a folder,
        naming what differs, and for one that holds anything else.
        """
        now = json.loads(to_json(identity))
        if overwrite and self.ledger.path.exists() and not self._is_of(now):
            self.ledger.forget(self.ledger.names())  # it stays: others' files may lie beside ours
        self.ledger.claim()
        self.ledger.add(self.record)
        if not self._path.exists():
            write_record(
                self._path, self.kind, self.form, {"identity": now}, run_hash(now), new=True
            )
        found = self.read()
        if self.hash != run_hash(now):
            raise InputError(
                f"--out {self.folder}: holds another {self.kind}: "
                f"{first_difference(found['identity'], now)}; name another folder or pass "
                "--overwrite"
            )

    @contextmanager
    def results(self) -> Iterator[Path]:
        """A folder to write results in; with the end of the block they stand in the run's folder,
        each whole, in the place of those of before. Raises InputError for a file there that memfast
        did not write."""
        with ExitStack() as stack:
            with writing(self.folder):
                made = stack.enter_context(unfinished(self.folder, a_folder=True))
            yield made
            files = sorted(path for path in made.rglob("*") if path.is_file())
            names = [path.relative_to(made).as_posix() for path in files]
            self.ledger.add(*names)
            with writing(self.folder):
                for path, name in zip(files, names, strict=True):
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, self.folder / name)

    def _is_of(self, identity: dict[str, Any]) -> bool:
        try:
            return self.read()["identity"] == identity
        except InputError:
            return False

    @property
    def _path(self) -> Path:
        return self.folder / self.record

    def read(self) -> dict[str, Any]:
        """The record. Raises InputError where it is missing, damaged or of another format."""
        found = read_record(self._path, self.kind, self.form)
        if not isinstance(found.get("identity"), dict):
            raise InputError(f"{self._path}: damaged (it lacks its identity)")
        self.hash = run_hash(found["identity"])
        return found

    def update(self, **values: Any) -> None:
        """Add to the record what was learnt since; nothing of it decides whether a run goes on."""
        found = self.read()
        write_record(self._path, self.kind, self.form, {**found, **values}, self.hash)


def run_hash(identity: Mapping[str, Any]) -> str:
    """Identifies everything that the figures depend on."""
    return hashlib.sha256(to_json(identity, sort_keys=True).encode()).hexdigest()[:32]
