"""Whether a call needs the dispatcher at all, which costs more than some kernels take."""

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportMissingImports]
from torch.nn import Parameter

PLAIN = (Tensor, Parameter)


def straight(*tensors: Tensor | None) -> bool:
    """True where nothing is compiled, traced, transformed or differentiated: run the backend."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    if peek_interpreter_stack() is not None or torch.jit.is_tracing():
        return False
    gradients = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in PLAIN or (gradients and tensor.requires_grad):
            return False
    return True
