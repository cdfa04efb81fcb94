"""Whether weights are numbers: asked where models enter and where they leave."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
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
    named = {name: p.detach() for name, p in model.named_parameters()}
    return None if _all_finite([*named.values()]) else next(_bad(named), None)


def _bad(named: Mapping[str, Tensor]) -> Iterator[str]:
    return (name for name, values in named.items() if not _is_finite(values))


def _all_finite(values: list[Tensor]) -> bool:
    """Whether a few kernels can tell that all of an accelerator's tensors are finite."""
    device = values[0].device if values else torch.device("cpu")
    if device.type in ("cpu", "meta") or any(
        each.device != device or not each.is_floating_point() or each.dtype.itemsize < 2
        for each in values
    ):
        return False
    norms = torch._foreach_norm(values)  # no norm of what is not finite is, and few others
    return bool(torch.stack([norm.float() for norm in norms]).isfinite().all())


def _is_finite(values: Tensor) -> bool:
    if values.is_meta or not values.is_floating_point():
        return True
    small = values.dtype.itemsize == 1  # float8 has few operators
    return bool((values.float() if small else values).isfinite().all())
