"""How a run is recorded on a device that can replay it: a CUDA graph."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

Run = Callable[[], Any]
Recorder = Callable[[Run], tuple[Any, Run]]  # what a run returns, and a replay of it


class CudaRecorder:
    """Captures runs on one device. All its graphs share memory: none is replayed before another's
    results are read."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> tuple[Any, Run]:
        """Raises what stopped the capture."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        how: Any = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        output, failed = None, None
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph, **how):
                try:
                    output = run()
                except Exception as error:
                    failed = error
        except Exception as error:  # a capture that was broken off cannot be ended either
            torch.cuda.set_stream(before)
            with suppress(Exception):
                torch._C._cuda_endAllocateToPool(self.device.index, self.pool)  # type: ignore[attr-defined]
            raise failed or error from error
        if failed is not None:
            raise failed
        return output, graph.replay


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}


@contextmanager
def reading_nothing(device: torch.device) -> Iterator[None]:
    """Within the context it is an error to wait for a CUDA device, which no capture allows."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
