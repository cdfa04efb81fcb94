"""A pipeline's parts from its configs alone: their classes, how many values they hold."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from memfast.blocks import compact_class  # noqa: F401  tells diffusers of the compact classes
from memfast.blocks.families.examples import EXAMPLES
from memfast.blocks.sizes import parameters
from memfast.errors import InputError
from memfast.files import there
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import DRIVERS
from memfast.pipelines.opening.naming import find_model, not_loaded

DENOISERS = ("unet", "transformer")


@dataclass(frozen=True)
class Parts:
    """values: {component: parameters}. denoiser: its class and config. vae: its config."""

    name: str
    driver: type[Driver]
    values: Mapping[str, int]
    denoiser: tuple[Any, Mapping[str, Any]]
    vae: Mapping[str, Any]

    @property
    def denoising(self) -> int:
        """Values of all denoisers."""
        return sum(n for part, n in self.values.items() if part.startswith(DENOISERS))

    @property
    def embedded(self) -> bool:
        """Whether guidance is told to the denoiser, and has no rows of its own."""
        config = self.denoiser[1]
        return bool(config.get("guidance_embeds") or config.get("time_cond_proj_dim"))

    @property
    def rows_a_prompt(self) -> int:
        """Rows of one call of the denoiser, guidance in."""
        return 2 if self.driver.together and self.driver.guidance and not self.embedded else 1

    def inputs(self, rows: int) -> dict[str, Any]:
        """Arguments of one call at the model's own size."""
        kind, config = self.denoiser
        name = kind.__name__.removeprefix("Compact")
        example = next((e for e in EXAMPLES.values() if e.model == name), None)
        if example is None:
            raise InputError(f"MODEL {self.name}: {name} is not among the classes that are planned")
        size = config.get("sample_size") or example.size
        side = size if isinstance(size, int) else size[0]
        made = example.inputs(Config(config), side, example.tokens)
        return {name: _of_rows(value, rows) for name, value in made.items()}


class Config(dict):
    """A config whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def parts_of(model: str | Path) -> Parts:
    """The parts of a pipeline's folder, of "demo", or of a hub id, whose configs are fetched.

    Raises InputError for what is none, and kinds that no driver knows.
    """
    folder = find_model(model) or _fetched(str(model))
    there(folder, "folder", f"MODEL {model}")
    index = _json(folder / "model_index.json")
    named = str(index.get("_class_name"))
    driver = next((d for d in DRIVERS if named in (*d.pipelines, *d.siblings)), None)
    if driver is None:
        raise InputError(f"MODEL {model}: {named}: no driver knows this pipeline")
    values: dict[str, int] = {}
    denoiser: tuple[Any, Mapping[str, Any]] | None = None
    vae: Mapping[str, Any] = {}
    for part, entry in index.items():
        if not isinstance(entry, list) or not (folder / part / "config.json").is_file():
            continue
        config = _json(folder / part / "config.json")
        kind = _class(*entry)
        if kind is None or not issubclass(kind, nn.Module):
            continue
        made: Any = _made(kind, config)
        values[part] = parameters(made)
        if part in DENOISERS:
            denoiser = kind, {**made.config}
        if part == "vae":
            vae = {**made.config}
    if denoiser is None:
        raise InputError(f"MODEL {model}: has no config of a unet or transformer")
    return Parts(str(model), driver, values, denoiser, vae)


def _made(kind: Any, config: dict[str, Any]) -> nn.Module:
    """A model's shapes, without storage."""
    with torch.device("meta"):
        if hasattr(kind, "from_config"):
            return kind.from_config(config)
        return kind(kind.config_class(**config))


def _class(library: str | None, name: str | None) -> Any:
    import memfast

    rooms = {"diffusers": diffusers, "transformers": transformers, "memfast": memfast}
    return getattr(rooms.get(str(library)), str(name), None)


def _of_rows(value: Any, rows: int) -> Any:
    """An example's argument, which is of two rows, of so many."""
    if isinstance(value, dict):
        return {name: _of_rows(inner, rows) for name, inner in value.items()}
    if isinstance(value, list) and len(value) == 2:
        return [value[0]] * rows
    if isinstance(value, Tensor) and value.ndim and len(value) == 2:
        return torch.empty(rows, *value.shape[1:], dtype=value.dtype)
    return value


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return found


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*/config.json"]))
    except Exception as error:
        raise not_loaded(name, error) from error
