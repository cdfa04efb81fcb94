"""Whether weights are numbers: asked where models enter and where they leave."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from memfast.errors import InputError


def check_weights(where: object, parts: Mapping[str, Any]) -> None:
    """Raise InputError, naming the first parameter of these models that is not finite; what is no
    model, and weights that are elsewhere (on the meta device), are passed over."""
    for part, model in parts.items():
        if isinstance(model, nn.Module) and (name := not_finite(model)) is not None:
            raise InputError(f"{where}: {part}: {name} holds numbers that are not finite")


def not_finite(model: nn.Module) -> str | None:
    """The name of the first parameter that holds a number that is not finite."""
    return next((name for name, p in model.named_parameters() if not _is_finite(p.detach())), None)


def _is_finite(values: Tensor) -> bool:
    if values.is_meta or not values.is_floating_point():
        return True
    small = values.dtype.itemsize == 1  # float8 has few operators
    return bool((values.float() if small else values).isfinite().all())
