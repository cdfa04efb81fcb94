"""The compact parts of a portable folder, by memfast's own classes: none of its code is run."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel

from memfast.blocks.compact_class import PORTABLE, compact_class
from memfast.errors import InputError, reading

READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # of a pipeline on the hub


class _Known(ModuleType):
    """What diffusers finds under the name of a portable folder's library."""

    ModelMixin, PreTrainedModel = ModelMixin, PreTrainedModel

    def __getattr__(self, name: str) -> type:
        return compact_class(name)


def portable_from_hub(model: str, index: str) -> Path | None:
    """The folder, without its code, of a hub id whose file `index` says that memfast made parts of
    it portable; None for any other. Raises what the hub's library does."""
    from huggingface_hub import hf_hub_download, snapshot_download

    found = json.loads(Path(hf_hub_download(model, index)).read_text(encoding="utf-8"))
    if not any(map(_is_portable, found.values())):
        return None
    return Path(snapshot_download(model, allow_patterns=READ))


def portable_parts(
    folder: Path, index: dict[str, Any], dtype: torch.dtype, variant: str | None
) -> dict[str, Any]:
    """{name: model} of the parts that the folder's model_index.json says memfast made portable.

    Raises InputError for a class that memfast does not know, and files that are not its weights.
    """
    found = {}
    for name, entry in index.items():
        if _is_portable(entry):
            found[name] = _part(folder / name, entry[1], dtype, variant)
    if found:
        sys.modules.setdefault(PORTABLE, _Known(PORTABLE))  # else diffusers looks for it anywhere
    return found


def _is_portable(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and entry[0] == PORTABLE


def _part(folder: Path, kind: object, dtype: torch.dtype, variant: str | None) -> Any:
    try:
        known: Any = compact_class(str(kind))
    except AttributeError:
        raise InputError(f"{folder}: {str(kind)[:60]!r} is no compact class of memfast") from None
    has_variant = variant is not None and any(folder.glob(f"*.{variant}*.safetensors"))
    with reading(folder):
        return known.from_pretrained(
            str(folder), dtype=dtype, variant=variant if has_variant else None, use_safetensors=True
        )
