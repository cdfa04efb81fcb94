"""From a run's folder to its page: of what the run stored, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from memfast.errors import InputError
from memfast.files import read_json, there
from memfast.files.ledger import note_file
from memfast.report.pictures import read_albums
from memfast.report.report import Report, Tone

PAGES = {  # kind of run: the module whose `page` makes its report
    "audit": "memfast.report.audit",
    "evaluation": "memfast.report.evaluation",
    "attack": "memfast.report.attack",
    "demo": "memfast.report.demo",
    "overlap": "memfast.report.overlap",
    "compact": "memfast.report.treated",
    "prune": "memfast.report.treated",
    "repair": "memfast.report.treated",
    "make-safe": "memfast.report.treated",
}
NAME, SUMMARY, PROVENANCE = "report.html", "summary.json", "provenance.json"


@dataclass(frozen=True)
class Stored:
    """A run's folder. summary, provenance: its JSON files, {} where there is none."""

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self.json(SUMMARY)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return self.json(PROVENANCE)

    @property
    def kind(self) -> str:
        """Raises InputError for a folder that no finished run left."""
        there(self.folder, "folder")
        audit = (self.folder / "manifest.json").is_file()
        kind = self.provenance.get("kind") or ("audit" if audit else None)
        if kind not in PAGES or not self.summary:
            raise InputError(
                f"{self.folder}: holds no finished run of {', '.join(PAGES)} "
                f"(it needs {SUMMARY} and {PROVENANCE})"
            )
        return kind

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder, {} where there is none."""
        path = self.folder / name
        found = read_json(path) if path.is_file() else {}
        if not isinstance(found, dict):
            raise InputError(f"{path}: is not a JSON object")
        return found

    def verdict(self, page: Report, tone: Tone, words: str, *lines: str) -> None:
        """The banner: the summary's own verdict where it has one, or else what is given."""
        own = self.summary.get("verdict")
        page.verdict(tone, own if isinstance(own, str) else words, *lines)

    def albums(self, page: Report) -> None:
        """The pictures that the run kept."""
        for album in read_albums(self.folder):
            page.gallery(album["heading"], album["cards"], album["note"])

    def sources(self, page: Report, *more: tuple[str, Any]) -> None:
        """Where the result comes from: provenance.json, and what else the folder tells."""
        page.facts("Provenance", [*self._sources(), *more])

    def _sources(self) -> Iterator[tuple[str, Any]]:
        found = self.provenance
        for name in ("command", "date"):
            if found.get(name):
                yield name, (found[name],) if name == "command" else found[name]
        for role, model in found.get("models", {}).items():
            yield role, f"{model['name']} ({model['pipeline']})"
            yield f"{role}'s fingerprint", (model["fingerprint"],)
        for role, prompts in found.get("prompts", {}).items():
            yield f"{role} prompts", f"{prompts['prompts']:,} of {prompts['name']}"
            yield "their digest", (prompts["digest"],)
        for name in ("device", "dtype", "seed"):
            if found.get(name) is not None:
                yield name, str(found[name])
        for where in self.summary.get("made_on", []):
            yield "made on", ", ".join(f"{name} {value}" for name, value in where.items())
        if versions := found.get("versions"):
            yield "versions", ", ".join(f"{name} {value}" for name, value in versions.items())


def page_of(folder: str | Path) -> Report:
    """The page of a finished run. Raises InputError for a folder that holds none."""
    stored = Stored(Path(folder))
    module = import_module(PAGES[stored.kind])
    try:
        return module.page(stored)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{folder}: these are not the files of this version's {stored.kind} "
            f"({type(error).__name__}: {error})"
        ) from error


def write_report(folder: str | Path) -> Path:
    """Write report.html into a run's folder; returns its path. Raises InputError as `page_of`."""
    path = Path(folder) / NAME
    page = page_of(folder)
    note_file(path.parent, NAME)
    page.write(path)
    return path
