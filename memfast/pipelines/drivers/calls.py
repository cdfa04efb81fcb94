"""A pipeline's own run, watched at its denoiser: what it passes there, and an end before its end.

No pipeline's arguments are made here a second time: its own run says what its denoiser is told.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import Parameter, signature
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from memfast.blocks.families.finding import uncompiled

Arguments = dict[str, Any]
Before = Callable[[Arguments], Arguments | None]
After = Callable[[Arguments], None]
LENGTHS = "#"


class Ended(Exception):
    """Ends a pipeline's run from within; never leaves `run`."""


def run(pipeline: DiffusionPipeline, /, **call: Any) -> Any:
    """One run of the pipeline without gradients; None where a watcher raised Ended.

    Offloaded components are where the pipeline wants them afterwards.
    """
    bar = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**{**bar, "disable": True})
    try:
        with torch.no_grad():
            return pipeline(**call)  # type: ignore[operator]
    except Ended:
        if hasattr(pipeline, "maybe_free_model_hooks"):
            pipeline.maybe_free_model_hooks()
        return None
    finally:
        pipeline.set_progress_bar_config(**bar)


def default(pipeline: Any, argument: str) -> Any:
    """What the pipeline's own call takes for an argument that nobody gives."""
    return signature(type(pipeline).__call__).parameters[argument].default


@contextmanager
def watched(
    models: Mapping[str, nn.Module], before: Before | None = None, after: After | None = None
) -> Iterator[None]:
    """Within the context each call of a model is seen, as flat arguments by name.

    before: may return other arguments. after: when the call is done. Either may raise Ended.
    """
    with ExitStack() as stack:
        for model in models.values():
            names = Names(model)

            def pre(_: nn.Module, args: tuple, kwargs: dict, names: "Names" = names) -> Any:
                changed = before(names.flat(args, kwargs)) if before else None
                return None if changed is None else ((), nested(changed))

            def post(
                _: nn.Module, args: tuple, kwargs: dict, output: Any, names: "Names" = names
            ) -> None:
                if after:
                    after(names.flat(args, kwargs))

            for handle in (
                model.register_forward_pre_hook(pre, with_kwargs=True),
                model.register_forward_hook(post, with_kwargs=True),
            ):
                stack.callback(handle.remove)
        yield


def passed(
    pipeline: DiffusionPipeline, models: Mapping[str, nn.Module], calls: int = 1, /, **call: Any
) -> list[Arguments]:
    """What a run passes to its denoiser in the first `calls` calls; nothing is denoised."""
    seen: list[Arguments] = []

    def before(arguments: Arguments) -> None:
        seen.append(arguments)
        if len(seen) == calls:
            raise Ended

    with idle(models), watched(models, before):
        run(pipeline, **call)
    return seen


@contextmanager
def idle(models: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within the context a model's call returns at once: its first argument, the latents."""
    own = [(model, vars(model).get("forward")) for model in models.values()]
    for model, _ in own:
        model.forward = lambda *args, **named: ((*args, *named.values())[0],)
    try:
        yield
    finally:
        for model, forward in own:
            del model.forward
            if forward is not None:
                model.forward = forward


class Names:
    """The names of a model's forward arguments."""

    def __init__(self, model: nn.Module):
        own = signature(type(uncompiled(model)).forward).parameters.values()
        positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        self.positional = [p.name for p in own if p.kind in positional][1:]

    def flat(self, args: tuple, kwargs: Mapping[str, Any]) -> Arguments:
        """All arguments by name, with dicts and lists of tensors opened.

        a["b"] is named "a.b"; the tensors of a list "a" are padded to one, their lengths are "a#".
        """
        flat: Arguments = {}
        for name, value in {**dict(zip(self.positional, args, strict=False)), **kwargs}.items():
            if isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
                flat |= {f"{name}.{key}": inner for key, inner in value.items()}
            elif isinstance(value, list) and value and all(isinstance(v, Tensor) for v in value):
                flat[name] = pad_sequence(value, batch_first=True)
                flat[name + LENGTHS] = torch.tensor([len(v) for v in value])
            else:
                flat[name] = value
        return flat


def nested(flat: Mapping[str, Any]) -> Arguments:
    """The arguments again as a forward pass takes them."""
    arguments: Arguments = {}
    for name, value in flat.items():
        outer, dot, inner = name.partition(".")
        if name.endswith(LENGTHS):
            continue
        if name + LENGTHS in flat:
            lengths = flat[name + LENGTHS].tolist()
            arguments[name] = [row[:n] for row, n in zip(value, lengths, strict=True)]
        elif dot:
            arguments.setdefault(outer, {})[inner] = value
        else:
            arguments[name] = value
    return arguments
