"""A meter of tensor memory: what operations allocate, and how much of it is alive at once."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Within the context, `peak` is the most bytes alive beyond those of `known` tensors.

    Storages of `known` that are freed count negative: `peak` is relative to the start.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()
        for tensor in known:
            self._watch(tensor, 0)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf, leaf.untyped_storage().nbytes())
        return result

    def _watch(self, tensor: Tensor, new: int) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.live += new
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, identity: int, size: int) -> None:
        self.seen.discard(identity)
        self.live -= size
