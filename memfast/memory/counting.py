"""What a computation takes, counted on tensors without memory: bytes at most, and operations.

Storages are followed from the operator that makes them to their end. Not counted: what a kernel
needs inside (cuDNN's and attention's workspaces) and what an allocator wastes.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

BLOCK = 512  # bytes: allocators give no less


class Storages(TorchDispatchMode):
    """Counts the bytes of the storages that its operators make: `now`, and at `most`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def know(self, tensor: Tensor) -> None:
        """Do not count what was there before."""
        self._known.add(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._ended, key, size)

    def _ended(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Count:
    """bytes: at most, beside what was there before. flops: floating-point operations."""

    bytes: int
    flops: int


@contextmanager
def without_memory() -> Iterator[FakeTensorMode]:
    """Within the context tensors have shapes and no memory; what looks at values fails."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.device("cpu"):
        yield mode


def count(run: Callable[[], Any], *there: nn.Module | Tensor) -> Count:
    """What `run` takes, within `without_memory`; `there`: what is not counted, being there.

    Operations are counted where no gradient is taken: torch's counter takes none.
    """
    flops = FlopCounterMode(display=False)
    with Storages() as storages, nullcontext() if torch.is_grad_enabled() else flops:
        for each in there:
            tensors = [each] if isinstance(each, Tensor) else [*each.parameters(), *each.buffers()]
            for tensor in tensors:
                storages.know(tensor)
        result = run()
        del result
    return Count(storages.most, flops.get_total_flops())
