"""Forward passes captured once a shape as CUDA graphs and replayed: their Python runs once.

A small model's eager pass waits for Python most of its time; a replay takes the GPU's own.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import update_wrapper
from operator import attrgetter, is_
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from memfast.errors import is_out_of_memory
from memfast.memory.recording import RECORDERS, Recorder, Run, reading_nothing

EAGER = 2  # passes of a shape before it is captured: kernels are compiled, and reads are found out
MOST = 32  # graphs of a model
_log = logging.getLogger("memfast")
_LIVING: "WeakSet[Captured]" = WeakSet()


@contextmanager
def captured(
    models: Iterable[nn.Module], left: Sequence[list[Any]] = (), *, wanted: bool = True
) -> Iterator[None]:
    """Within the context the models' passes without gradients are replayed where that is safe.

    left: lists that a pass appends tensors to; a replay appends the same tensors, which the next
    one overwrites, as it does not what a pass returns. Where it is not safe (offloading, adapters,
    quantised weights, hooks, a pass that reads the device), passes are eager, and why is logged
    once. Weights that changed since are captured anew. Takes the memory of a pass again.
    """
    with ExitStack() as stack:
        for model in models:
            device = next(model.parameters()).device
            if not wanted or device.type not in RECORDERS:
                continue
            if isinstance(vars(model).get("forward"), Captured):
                continue  # by an outer context
            if reason := why_not(model):
                _tell(model, reason)
                continue
            stack.callback(_restore, model, vars(model).get("forward"))
            model.forward = Captured(model, left, RECORDERS[device.type])
        yield


def give_back() -> None:
    """Drop all graphs, since memory has run out."""
    for each in list(_LIVING):
        if any(isinstance(done, Recorded) for done in each.passes.values()):
            each.refuse("memory has run out")


def why_not(model: nn.Module) -> str | None:
    """Why a model's passes cannot be captured, as far as it shows."""
    for module in model.modules():
        own = vars(module)
        if "_hf_hook" in own or "_diffusers_hook" in own:
            return "it is offloaded, or hooked"
        if type(module).__module__.partition(".")[0] == "peft":
            return "it has adapters"
        if own.get("_compiled_call_impl") is not None or "_orig_mod" in module._modules:
            return "it is compiled"
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        return "its weights do not tell when they change (inference mode)"
    if len({tensor.device for tensor in tensors}) > 1:
        return "it is on several devices"
    if any(type(p) is not nn.Parameter or p.element_size() < 2 for p in model.parameters()):
        return "its weights are quantised"
    return None


class State:
    """What a model's modules and weights are now, and whether they still are: asked at each pass,
    of the dictionaries that modules hold, so that it takes little."""

    def __init__(self, model: nn.Module):
        modules = [*model.modules()]
        within = modules[1:]
        self.hooks = [h for m in within for h in (m._forward_hooks, m._forward_pre_hooks)]
        self.own = [vars(module) for module in within]
        self._inner = [module._modules for module in modules if module._modules]
        self._weights = [module._parameters for module in modules if module._parameters]
        self._children = _all(self._inner)
        self._tensors = [t for t in _all(self._weights) if t is not None]
        self._facts = self._now()
        self._kept = [t.detach() for t in self._tensors]  # their memory is not given to others

    def holds(self) -> bool:
        """Whether no module was replaced, and no weight replaced, moved or changed in place."""
        if self._children != _all(self._inner):
            return False
        tensors = [t for t in _all(self._weights) if t is not None]
        same = len(tensors) == len(self._tensors) and all(map(is_, tensors, self._tensors))
        return same and self._facts == self._now()

    def _now(self) -> list[Any]:
        return [*map(Tensor.data_ptr, self._tensors), *map(_VERSION, self._tensors)]


def _all(dictionaries: list[Any]) -> list[Any]:
    return [value for each in dictionaries for value in each.values()]


_VERSION = attrgetter("_version")


@dataclass
class Recorded:
    """A captured pass: the tensors that it reads, what it returns and leaves, and its replay."""

    inputs: list[Tensor]
    output: Any
    left: list[list[Any]]
    replay: Run


class Captured:
    """In place of a model's `forward`: the same call, captured by the shapes of its arguments, the
    weights, and the modules' own forwards (see `Prefix`)."""

    def __init__(
        self,
        model: nn.Module,
        left: Sequence[list[Any]],
        recorder: Callable[[torch.device], Recorder],
    ):
        self.model, self.left, self.recorder = model, left, recorder
        self.eager = model.forward
        update_wrapper(self, self.eager)
        self.device = next(model.parameters()).device
        self.refused = False
        self.state = State(model)
        self.record = recorder(self.device)
        self.passes: dict[Any, int | Recorded] = {}
        _LIVING.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.refused or not self._may():
            return self.eager(*args, **kwargs)
        self._look()
        leaves, spec = tree_flatten((args, kwargs))
        given = [leaf.to(self.device, non_blocking=True) for leaf in leaves if _is_tensor(leaf)]
        key = self._key(leaves, spec)
        done = self.passes.get(key, 0)
        if isinstance(done, Recorded):
            return self._replayed(done, given)
        if len(self.passes) >= MOST and key not in self.passes:
            return self.eager(*args, **kwargs)
        if done < EAGER - 1:
            self.passes[key] = done + 1
            return self.eager(*args, **kwargs)
        try:
            if done < EAGER:
                with reading_nothing(self.device):
                    output = self._leaving(lambda: self._run(given, leaves, spec))[0]
                self.passes[key] = EAGER
                return output
            self.passes[key] = recorded = self._recorded(given, leaves, spec)
            return self._replayed(recorded, given)
        except Exception as error:
            if done < EAGER and is_out_of_memory(error):
                raise
            self.refuse(str(error).partition("\n")[0])
        return self.eager(*args, **kwargs)

    def refuse(self, reason: str) -> None:
        """Run passes one by one from now on, and give back what graphs hold."""
        if not self.refused:
            self.refused = True
            self.passes.clear()
            _tell(self.model, reason)

    def _may(self) -> bool:
        """Whether this call may be replayed: no gradients, no hooks within, no compiler, no
        capture that is under way."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(self.device.type):
            return False
        if self.model.training or torch.compiler.is_compiling():
            return False
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        return not any(self.state.hooks)

    def _look(self) -> None:
        """Forget what was captured where the modules or their weights are others now."""
        if not self.state.holds():
            self.state = State(self.model)
            self.passes.clear()
            self.record = self.recorder(self.device)

    def _key(self, leaves: list[Any], spec: TreeSpec) -> Any:
        own = [of_module["forward"] for of_module in self.state.own if "forward" in of_module]
        told = [
            (x.shape, x.stride(), x.dtype) if _is_tensor(x) else (type(x), repr(x)) for x in leaves
        ]
        return str(spec), tuple(told), tuple(own)

    def _run(self, tensors: list[Tensor], leaves: list[Any], spec: TreeSpec) -> Any:
        """The eager pass, on these tensors in place of its own."""
        others = iter(tensors)
        mixed = [next(others) if _is_tensor(leaf) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(mixed, spec)
        return self.eager(*args, **kwargs)

    def _leaving(self, run: Run) -> tuple[Any, list[int]]:
        """What it returns, and how long the lists were before; as long again where it fails."""
        before = [len(each) for each in self.left]
        try:
            return run(), before
        except Exception:
            for each, length in zip(self.left, before, strict=True):
                del each[length:]
            raise

    def _recorded(self, given: list[Tensor], leaves: list[Any], spec: TreeSpec) -> Recorded:
        inputs = [torch.empty_like(tensor).copy_(tensor) for tensor in given]
        run = self._run
        (output, replay), before = self._leaving(
            lambda: self.record(lambda: run(inputs, leaves, spec))
        )
        left = [each[length:] for each, length in zip(self.left, before, strict=True)]
        for each, length in zip(self.left, before, strict=True):
            del each[length:]
        return Recorded(inputs, output, left, replay)

    def _replayed(self, recorded: Recorded, given: list[Tensor]) -> Any:
        for mine, tensor in zip(recorded.inputs, given, strict=True):
            mine.copy_(tensor)
        recorded.replay()
        for each, left in zip(self.left, recorded.left, strict=True):
            each.extend(left)
        return tree_map_only(Tensor, Tensor.clone, recorded.output)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _restore(model: nn.Module, own: Any) -> None:
    if own is None:
        del model.forward
    else:
        model.forward = own


def _tell(model: nn.Module, reason: str) -> None:
    name = type(model).__name__
    _log.warning(f"{name}: its passes are run one by one, not replayed: {reason}")
