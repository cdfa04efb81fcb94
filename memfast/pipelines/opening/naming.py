"""What MODEL names: the embedded model, a folder or file here, or a model of the hub."""

import os
from pathlib import Path
from typing import Any

from memfast.errors import InputError, one_line
from memfast.files.naming import near, there

DEMO = Path(__file__).parents[2] / "demo" / "data" / "pipeline"
GIVE = "give 'demo', a pipeline's folder, a .safetensors file or a hub id"
UNREACHED = "the hub cannot be reached, nor is it in the hub's cache here"


def find_model(model: str | Path) -> Path | None:
    """Where a model is on this machine; None for a hub id of which no folder is here.

    Raises InputError for a path that does not exist, with what is spelled like it.
    """
    path = DEMO if str(model) == "demo" else Path(model)
    try:
        return there(path, "folder or file", f"MODEL {model}", "demo")
    except InputError as error:
        if is_hub_id(model):
            return None
        raise InputError(f"{error}; {GIVE}") from None


def is_hub_id(model: Any) -> bool:
    """Whether a name is one of the hub's, OWNER/NAME, and none of a path that exists."""
    name = str(model)
    path = name[:1] in ("", ".", "~", "/") or os.path.isabs(name) or os.path.exists(name)
    return name.count("/") == 1 and name.index("/") < len(name) - 1 and not path


def not_loaded(model: str | Path, error: BaseException) -> InputError:
    """What to say of a model of which libraries said `error`, on one line."""
    name = f"MODEL {model}"
    if is_hub_id(model) and (reason := _not_on_hub(error)):
        return InputError(f"{name}: no such folder{near(model, 'folder')}, and {reason}; {GIVE}")
    return InputError(f"{name}: cannot be loaded ({one_line(error)}); {GIVE}")


def _not_on_hub(error: BaseException | None) -> str | None:
    """Why the hub did not give a model, where an error, or one behind it, tells of that."""
    while error is not None:
        for sign, reason in (
            ("GatedRepo", "the hub asks for a login first (`hf auth login`)"),
            ("RepositoryNotFound", "the hub has none of that name, or a private one"),
            ("Connect", UNREACHED),
            ("LocalEntryNotFound", UNREACHED),
            ("OfflineMode", UNREACHED),
        ):
            if sign in type(error).__name__:
                return reason
        error = error.__cause__ or error.__context__
    return None


def shown_name(model: str) -> str:
    """What a model is called in what may be published: a hub id, or its folder's name alone."""
    return Path(model).resolve().name if Path(model).exists() else model
