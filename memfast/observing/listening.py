"""Which rows of which denoiser call belong to what: steps, and both halves of guidance."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline
from memfast_kernels import Moments

from memfast.errors import InputError
from memfast.observing.tracing import Trace
from memfast.pipelines.loading import denoiser_of

Call = dict[str, dict[str, Moments]]  # "conditional" or "unconditional" -> site -> Moments [images]
_HALVES = {"cond": "conditional", "uncond": "unconditional", "cond_uncond": "conditional"}


@contextmanager
def listen(
    pipeline: DiffusionPipeline,
    traced: Trace,
    images: int,
    steps: int,
    end_of_step: Callable[[int, Call], None],
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Within the context, what to pass to one run of `pipeline` as its `callback_on_step_end`.

    Each of the first `steps` steps then ends with `end_of_step`: it is given the step's number and
    what the denoiser's neurons did, on the CPU; after the last one the pipeline is told to stop.
    Guidance may come in one call (unconditional rows first), in separate calls that the pipeline
    names by `cache_context`, or not at all.
    Raises InputError where rows cannot be told apart.
    """
    model = denoiser_of(pipeline)
    call: Call = {}
    context = ["cond"]
    done = [0]

    def after_forward(*_: Any) -> None:
        for half, moments in split_guidance(traced.drain(), images, context[0]).items():
            if half in call:
                raise InputError(f"the denoiser ran twice on {half} rows within one step")
            call[half] = moments

    def after_step(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if done[0] < steps:
            if "conditional" not in call:
                raise InputError("the denoiser did not run on conditional rows within a step")
            end_of_step(done[0], dict(call))
        done[0] += 1
        call.clear()
        if done[0] >= steps:
            pipe._interrupt = True
        return {}

    with _named_calls(model, context):
        handle = model.register_forward_hook(after_forward)
        try:
            yield after_step
        finally:
            handle.remove()
            if hasattr(pipeline, "_interrupt"):
                pipeline._interrupt = False


def split_guidance(moments: dict[str, Moments], images: int, context: str) -> Call:
    """One denoiser call's statistics by half of guidance, on the CPU.

    Raises InputError unless every site saw one or two segments an image.
    """
    segments = {len(m.count) for m in moments.values()}
    if segments == {2 * images}:
        parts = {"unconditional": slice(0, images), "conditional": slice(images, None)}
    elif segments == {images} and context in _HALVES:
        parts = {_HALVES[context]: slice(None)}
    else:
        raise InputError(
            f"cannot tell conditional from unconditional rows: {images} prompts gave "
            f"{sorted(segments)} images in a denoiser call named {context!r}"
        )
    cpu = {site: m.to("cpu") for site, m in moments.items()}
    return {half: {site: m.select(part) for site, m in cpu.items()} for half, part in parts.items()}


@contextmanager
def _named_calls(model: Any, context: list[str]) -> Iterator[None]:
    """Within the context, `context[0]` is the name that the pipeline gives its denoiser call."""
    named = getattr(model, "cache_context", None)
    if named is None:
        yield
        return

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        before, context[0] = context[0], name
        try:
            with named(name):
                yield
        finally:
            context[0] = before

    model.cache_context = noted
    try:
        yield
    finally:
        del model.cache_context
