"""The same work on new values, again and again: on a CUDA device one captured graph.

As `memfast.memory.captured`, for passes with gradients, of which a function returns all that is
wanted: a small model's step is thousands of kernels that each take less time than their launch.
"""

import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from memfast.errors import one_line
from memfast.memory.recording import RECORDERS, Recorder, reading_nothing

OFTEN = 3  # calls with inputs of one shape before they are captured
MOST = 4  # graphs, each with memory of its own
_log = logging.getLogger("memfast")


class Replayed:
    """A function of tensors that depends on nothing else that changes, but by tensors in place.

    On a CUDA device its third call with inputs of equal shapes is captured, and later ones replay
    that. What it returns is then overwritten by the next call. Where capturing fails, and on other
    devices, it is called.
    """

    def __init__(self, run: Callable[..., Any], on: bool = True):
        self.run, self.on = run, on
        self.record: Recorder | None = None
        self.calls: dict[Any, int] = {}
        self.graphs: dict[Any, _Graph] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """What the function returns."""
        device = inputs[0].device
        if not self.on or device.type not in RECORDERS:
            return self.run(*inputs)
        key = tuple((each.shape, each.dtype) for each in inputs)
        if key in self.graphs:
            return self.graphs[key](*inputs)
        self.calls[key] = calls = self.calls.get(key, 0) + 1
        if calls < OFTEN - 1 or len(self.graphs) == MOST:
            return self.run(*inputs)
        try:
            if calls < OFTEN:
                with reading_nothing(device):
                    return self.run(*inputs)
            self.record = self.record or RECORDERS[device.type](device)
            self.graphs[key] = _Graph(self.run, inputs, self.record)
        except Exception as error:  # what memory lacks, or what no graph can hold
            self.on = False
            _log.warning("no CUDA graph, every kernel is launched: %s", one_line(error))
            return self.run(*inputs)
        return self.graphs[key](*inputs)


class _Graph:
    """One capture: inputs are copied to where it reads them."""

    def __init__(self, run: Callable[..., Any], inputs: tuple[Tensor, ...], record: Recorder):
        self.inputs = [each.detach().clone() for each in inputs]
        self.output, self.replay = record(lambda: run(*self.inputs))

    def __call__(self, *inputs: Tensor) -> Any:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.replay()
        return self.output
