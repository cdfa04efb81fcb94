"""The part of a pass that no prompt has touched: computed once, then replayed for every batch.

Under one noise and timestep, everything before the first cross-attention is the same for all
prompts. Its largest modules' outputs are kept for one row and handed out again, expanded.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from memfast.pipelines.drivers.driver import Driver


class Prefix:
    """Outputs of the modules that a pass ran before it first used a prompt, for one row."""

    def __init__(self, driver: Driver, run: Callable[[], Any]) -> None:
        """`run` makes one pass of the denoiser with a single row.

        Where a prompt enters by more than cross-attention (pooled, joined), nothing is kept.
        """
        started: dict[nn.Module, int] = {}
        outputs: dict[nn.Module, Any] = {}
        prompted: list[int] = []  # the pass's clock when a prompt was first used

        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            started[module] = started.get(module, 0) + 1
            if _is_attention(module) and kwargs.get("encoder_hidden_states") is not None:
                prompted.append(len(outputs))

        def after(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            if not prompted:
                outputs[module] = output

        with ExitStack() as stack:
            for module in driver.model.modules():
                for hook in (
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(after, with_kwargs=True),
                ):
                    stack.callback(hook.remove)
            run()
        once = {module: output for module, output in outputs.items() if started[module] == 1}
        inside = {child for module in once for child in module.modules() if child is not module}
        kept = {module: output for module, output in once.items() if module not in inside}
        self.outputs = kept if prompted and driver.enters_by_attention else {}
        self._forwards: dict[int, dict[nn.Module, Callable[..., Any]]] = {}

    @contextmanager
    def replayed(self, rows: int) -> Iterator[None]:
        """Within the context the modules return what they returned then, for `rows` rows."""
        if rows not in self._forwards:  # always the same ones: a captured pass knows them by that
            self._forwards[rows] = {m: _returning(out, rows) for m, out in self.outputs.items()}
        with ExitStack() as stack:
            for module, forward in self._forwards[rows].items():
                stack.callback(_restore, module, module.__dict__.get("forward"))
                module.forward = forward
            yield


def _returning(output: Any, rows: int) -> Callable[..., Any]:
    """A forward that returns one row's output for `rows` rows."""
    expanded = tree_map_only(Tensor, lambda t: t.expand(rows, *t.shape[1:]), output)
    return lambda *args, **kwargs: expanded


def _is_attention(module: nn.Module) -> bool:
    return hasattr(module, "to_k") and hasattr(module, "to_v")


def _restore(module: nn.Module, own: Any) -> None:
    """Give back the forward that the instance had of its own, or none."""
    if own is None:
        del module.forward
    else:
        module.forward = own
