"""The operators under opcheck, autograd and torch.compile."""

import subprocess
import sys

import memfast_kernels as mk
import pytest
import torch
from memfast_kernels import ops

x, weight, bias = torch.randn(12, 6), torch.randn(10, 6), torch.randn(10)
projected = torch.randn(12, 10)
moments = mk.column_moments(projected, segment_rows=4)
state = [moments.count, moments.mean, moments.m2, moments.max_abs, moments.nonzero]
OPERATORS = {
    "geglu": (projected, "gelu", True, ""),
    "geglu_moments": (projected, "silu", True, 4, ""),
    "geglu_linear": (x, weight, bias, "gelu", True, True, ""),
    "geglu_linear_moments": (x, weight, None, "gelu_tanh", False, True, 12, ""),
    "column_moments": (projected, torch.rand(12), False, 6, ""),
    "merge": (state, [tensor.clone() for tensor in state]),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(name, gradient):
    if gradient and name in ("column_moments", "merge"):
        pytest.skip("statistics carry no gradient")
    arguments = tuple(
        argument.clone().requires_grad_(gradient)
        if isinstance(argument, torch.Tensor)
        else argument
        for argument in OPERATORS[name]
    )
    torch.library.opcheck(getattr(ops, name), arguments)


@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_gradients(activation, gated):
    settings = dict(activation=activation, gated=gated)
    inputs = [tensor.double().requires_grad_() for tensor in (x[:4], weight, bias)]
    assert torch.autograd.gradcheck(lambda *a: mk.geglu_linear(*a, **settings), inputs)
    assert torch.autograd.gradcheck(
        lambda p: mk.geglu(p, moments=True, **settings)[0], projected[:4].double().requires_grad_()
    )


def test_statistics_carry_no_gradient():
    hidden, counted = mk.geglu(projected.clone().requires_grad_(), moments=True)
    assert hidden.requires_grad
    assert not counted.mean.requires_grad
    assert not counted.m2.requires_grad


WHOLE_GRAPH = """
import torch
import memfast_kernels as mk

weight, bias = torch.randn(10, 6), torch.randn(10)

def block(x):
    hidden, counted = mk.geglu_linear(x, weight, bias, moments=True, segment_rows=4)
    return hidden, mk.merge(counted, mk.column_moments(hidden, segment_rows=4))

for dynamic in (False, True):
    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (12, 8):
        x = torch.randn(rows, 6)
        (hidden, counted), (expected, wanted) = compiled(x), block(x)
        torch.testing.assert_close(hidden, expected, rtol=0, atol=0)
        for name in ("count", "mean", "m2", "max_abs", "nonzero"):
            pair = getattr(counted, name), getattr(wanted, name)
            torch.testing.assert_close(*pair, rtol=0, atol=0)
"""


def test_the_whole_graph_compiles():
    """In a process of its own: Dynamo cannot trace what the jaxtyping import hook wraps."""
    run = subprocess.run([sys.executable, "-c", WHOLE_GRAPH], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
