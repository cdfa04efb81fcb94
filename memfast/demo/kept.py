"""What an unfinished run has done, kept in a folder beside its output until that is written."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from memfast.errors import InputError
from memfast.files import Run, load_tensors, save_tensors

KIND, FORMAT = "unfinished demo", 1
_log = logging.getLogger("memfast")


@runtime_checkable
class Saved(Protocol):
    """What can be saved, and loaded by its class."""

    def save(self, path: Path) -> None: ...


Result = TypeVar("Result")
Object = TypeVar("Object", bound=Saved)


@dataclass(frozen=True)
class Kept:
    """Results by name: each is made once, and read where an earlier run made it."""

    run: Run

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors by name."""
        run = f"{self.run.hash}/{name}"
        return self._once(
            name,
            make,
            lambda made, path: save_tensors(
                path, made, {"kind": KIND, "format": FORMAT, "run": run}
            ),
            lambda path: load_tensors(path, KIND, FORMAT, run=run)[0],
        )

    def object(self, name: str, kind: type[Object], make: Callable[[], Object]) -> Object:
        """An object that saves itself."""
        return self._once(name, make, lambda made, path: made.save(path), kind.load)  # type: ignore[attr-defined]

    def path(self, name: str) -> Path:
        """A file of this run, which its maker writes."""
        self.run.ledger.add(f"{name}.safetensors")
        return self.run.folder / f"{name}.safetensors"

    def _once(
        self,
        name: str,
        make: Callable[[], Result],
        save: Callable[[Result, Path], None],
        load: Callable[[Path], Result],
    ) -> Result:
        path = self.path(name)
        if path.exists():
            try:
                return load(path)
            except InputError as error:
                _log.warning("%s; it is made again", error)
        made = make()
        save(made, path)
        return made

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.run.folder

    def told(self) -> str:
        """How many results are there."""
        return f"{len(list(self.folder.glob('*.safetensors')))} results"


@contextmanager
def keeping_results(
    out: Path, identity: Mapping[str, Any], overwrite: bool = False
) -> Iterator[Kept]:
    """Within the context, results beside `out`, which are spent when that is written.

    Raises InputError for results of another identity.
    """
    folder = out.with_name(f"{out.name}.unfinished")
    with Run.opened(folder, KIND, FORMAT, "demo.json") as run:
        run.begin(identity, overwrite)
        yield Kept(run)
