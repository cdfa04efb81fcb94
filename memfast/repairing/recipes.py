"""Named bundles of repair's settings: what was found to serve, and for how much time."""

from collections.abc import Mapping
from typing import Any

from memfast.errors import InputError
from memfast.repairing.settings import RepairSettings

TEACHING = {"learning_rate": 1e-3, "batch": 24, "surrogate": 0.0, "scattered": 0.0}
ERASING = {"perturb": 0.6, "selected": 0.3, "perturb_high": 0.95, "perturb_low": 0.4}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "quick": {**TEACHING, **ERASING, "steps": 500, "adversarial": 0.0},
    "thorough": {
        **TEACHING,
        **ERASING,
        "steps": 2500,
        "adversarial": 0.3,
        "every": 5,
        "stride": 2,
        "ema": 0.99,
    },
}


def recipe(name: str, **changes: Any) -> RepairSettings:
    """A recipe's settings, with some changed. Raises InputError for a name that is none."""
    return RepairSettings(**{**bundle(name), "recipe": name, **changes})


def bundle(name: str) -> dict[str, Any]:
    """What a recipe sets. Raises InputError for a name that is none."""
    if name not in RECIPES:
        raise InputError(f"recipe must be one of {', '.join(RECIPES)}, not {name!r}")
    return dict(RECIPES[name])
