"""A pretend accelerator, "pretend": CPU memory behind tensors that refuse what CUDA refuses.

An operation on tensors of both devices fails (CPU scalars pass, and CPU indices into its tensors,
as on CUDA), and so do a CPU generator for its tensors, and `.numpy()`. Not shown: streams, several
devices, Triton, memory. Until `available` says so, `torch.accelerator` does not see it.

torch registers backends written in Python by an interface that it calls experimental.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial, partialmethod
from typing import Any

import pytest
import torch
from diffusers import ModelMixin
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from transformers import PreTrainedModel

NAME = "pretend"
aten = torch.ops.aten
TAKES_CPU_INDICES = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class Module(backend_registration._DummyBackendModule):
    """What torch asks of `torch.pretend`."""

    seen = False

    def is_available(self) -> bool:
        return self.seen

    def synchronize(self, *_: Any) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class Far(Tensor):
    """A tensor of the accelerator; `near` is the CPU tensor behind it."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, near: Tensor) -> None:
        self.near = near

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}({self.near!r})"

    def tolist(self) -> Any:
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        return run(operation, *args, **(kwargs or {}))


def run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """One operator, on tensors of which some are the accelerator's, or for which it is asked."""
    if operation in (aten.copy_.default, aten._copy_from.default):
        target, source = args[:2] if operation is aten.copy_.default else (args[1], args[0])
        near(target).copy_(near(source))
        return target
    if operation is aten._to_copy.default:
        there = torch.device(kwargs.pop("device", None) or args[0].device).type == NAME
        kwargs.pop("pin_memory", None)
        result = operation(near(args[0]), **kwargs)
        return Far(result) if there else result
    flat, spec = tree_flatten((args, kwargs))
    far = [leaf for leaf in flat if isinstance(leaf, Far)]
    devices = [leaf.type for leaf in flat if isinstance(leaf, torch.device)]
    check(operation, args, flat, bool(far) or NAME in devices)
    args, kwargs = tree_unflatten([near(leaf) for leaf in flat], spec)
    result = operation(*args, **kwargs)
    if NAME not in devices and ("cpu" in devices or not far):
        return result
    known = {id(tensor.near): tensor for tensor in far}  # operators in place return what they got
    return tree_map(lambda leaf: put(leaf, known), result)


def near(leaf: Any) -> Any:
    """An argument as the CPU takes it."""
    if isinstance(leaf, Far):
        return leaf.near
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == NAME else leaf


def put(leaf: Any, known: dict[int, Far]) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else Far(leaf)


def check(operation: Any, args: Any, flat: list[Any], there: bool) -> None:
    """Raise RuntimeError for what CUDA would not take."""
    if not there:
        return
    if operation in TAKES_CPU_INDICES:
        if not isinstance(args[0], Far):
            raise RuntimeError(f"{operation}: indices or values on {NAME} for a CPU tensor")
        return
    for leaf in flat:
        if isinstance(leaf, torch.Generator) and leaf.device.type != NAME:
            raise RuntimeError(f"{operation}: a CPU generator for a tensor on {NAME}")
        if isinstance(leaf, Tensor) and not isinstance(leaf, Far) and leaf.ndim:
            raise RuntimeError(f"{operation}: on {NAME} and the CPU, there {tuple(leaf.shape)}")


@cache
def install() -> list[torch.library.Library]:
    """Make the device known to torch, once a process. What is returned must live on."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    library = torch.library.Library("aten", "IMPL")
    for name, operation in factories():
        library.impl(name, partial(run, operation), "PrivateUse1")
    copy_from = partial(run, aten._copy_from.default)
    library.impl(
        "_copy_from", lambda source, target, _=False: copy_from(source, target), "PrivateUse1"
    )
    under_autocast = torch.library.Library("_", "IMPL")
    under_autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return [library, under_autocast]


def factories() -> Iterator[tuple[str, Any]]:
    """Operators that make one tensor of none, on a device that they are told."""
    for whole in torch._C._dispatch_get_all_op_names():
        name, _, overload = whole.removeprefix("aten::").partition(".")
        packet = getattr(aten, name, None) if whole.startswith("aten::") else None
        operation = getattr(packet, overload or "default", None)
        if operation is None:
            continue
        takes = [str(argument.type) for argument in operation._schema.arguments]
        gives = [str(result.type) for result in operation._schema.returns]
        told = any(argument.name == "device" for argument in operation._schema.arguments)
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(
            whole, "CompositeImplicitAutograd"
        )
        if gives == ["Tensor"] and told and not composite and not any("Tensor" in t for t in takes):
            yield whole.removeprefix("aten::"), operation


@contextmanager
def available() -> Iterator[str]:
    """Within the context torch sees the accelerator, and it is the best device there is.

    Modules that are moved get new parameters: assigning `.data` would leave `near` behind.
    """
    install()
    module = torch.get_device_module(NAME)
    module.seen = True
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield NAME
    finally:
        module.seen = False
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@contextmanager
def saved_from_the_cpu() -> Iterator[None]:
    """Within the context models are saved from the CPU: safetensors reads memory, which a tensor
    made in Python has none of."""

    def saving(model: Any, *args: Any, save: Any, **kwargs: Any) -> None:
        there = model.device
        model.to("cpu")
        save(model, *args, **kwargs)
        model.to(there)

    with pytest.MonkeyPatch.context() as patch:
        for kind in (ModelMixin, PreTrainedModel):
            patch.setattr(kind, "save_pretrained", partialmethod(saving, save=kind.save_pretrained))
        yield
