"""A pipeline's own run, seen at its denoiser: which rows are whose, with the prompt or without."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float64
from torch import Tensor, nn

from memfast.pipelines.drivers.calls import Arguments, Names, nested
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.precision import exact


def asked_of(pipeline: DiffusionPipeline, args: tuple, kwargs: Mapping[str, Any]) -> Arguments:
    """All arguments of the pipeline's call by name, its defaults among them."""
    bound = signature(type(pipeline).__call__).bind(pipeline, *args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def texts_of(asked: Arguments) -> list[str] | None:
    """A text for each image that is asked for; None where embeddings are given in their place."""
    prompt = asked.get("prompt")
    if prompt is None:
        return None
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    each = next(
        (n for name, n in asked.items() if name.startswith("num_") and "per_prompt" in name), 1
    )
    return [text for text in texts for _ in range(each or 1)]


def guidance_of(driver: Driver, asked: Arguments) -> float | None:
    """How far the run goes: without the prompt + weight · (with it - without); None where no row is
    without it."""
    given = {"guidance_scale": asked.get(driver.guidance)} if driver.guidance else {}
    if driver.true_guidance:
        given["true_guidance_scale"] = asked.get(driver.true_guidance)
    schedule = driver.schedule(given)
    names = (driver.guidance or "", driver.true_guidance or "")
    if any(name.startswith("true") for name in names):
        negatives = (asked.get("negative_prompt"), asked.get("negative_prompt_embeds"))
        if all(each is None for each in negatives):
            return None
    return driver.weight(schedule) if driver.guided(schedule) else None


@dataclass
class Call:
    """One call of the denoiser within a run.

    seen: its arguments, flat. half: whose rows, where halves have a call each; None where all are
    there. number: how many calls there were before, of the same halves.
    """

    driver: Driver
    seen: Arguments
    half: str | None
    number: int
    guided: bool

    @property
    def images(self) -> int:
        """How many images are being made."""
        rows = len(self.driver.latents_of(self.seen))
        return rows // 2 if self.half is None and self.guided else rows

    def rows(self, half: str) -> slice:
        """Where the rows of a half are."""
        if self.half is not None or not self.guided:
            return slice(0, self.images)
        start = self.driver.halves.index(half) * self.images
        return slice(start, start + self.images)

    @property
    def tells(self) -> bool:
        """Whether rows with the prompt are there."""
        return self.half in (None, CONDITIONAL)

    def told(self, texts: list[str] | None) -> Conditioning:
        """What the rows with the prompt are told. texts: as `texts_of` gives them."""
        driver, rows = self.driver, self.rows(CONDITIONAL)
        total = self.images if self.half is not None or not self.guided else 2 * self.images
        named = [driver.null] * total
        named[rows] = texts or [driver.null] * self.images
        told = driver.conditioning(named, self.seen)[rows]
        return Conditioning(
            {name: told.leaves[name] for name in driver.no_prompt.leaves},
            driver.no_prompt.searched,
            driver.no_prompt.shared,
            told.text_rows,
        )


class Watch:
    """Sees a run's calls of its denoisers: `before` may change a call's arguments, `after` its
    output, each with the call. What is called while one of them works is not seen."""

    def __init__(
        self,
        driver: Driver,
        weight: float | None,
        before: Callable[[Call], Arguments | None] | None = None,
        after: Callable[[Call, Tensor], Tensor | None] | None = None,
    ) -> None:
        self.driver, self.guided = driver, weight is not None
        self.before, self.after = before, after
        self.calls, self.idle = 0, False
        self.call: Call | None = None

    @contextmanager
    def on(self, models: Mapping[str, nn.Module]) -> Iterator[None]:
        """Within the context these models are watched."""
        with ExitStack() as stack:
            for model in models.values():
                for handle in self._hooks(model):
                    stack.callback(handle.remove)
            yield

    def _hooks(self, model: nn.Module) -> Iterator[Any]:
        names = Names(model)

        def pre(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            if self.idle:
                return None
            self.call = self._next(names.flat(args, kwargs))
            changed = self._aside(self.before, self.call)
            return None if changed is None else ((), nested(changed))

        def post(_: nn.Module, args: tuple, output: Any) -> Any:
            if self.idle or self.call is None:
                return None
            several = isinstance(output[0], list)  # an image each
            first = torch.stack(output[0]) if several else output[0]
            changed = self._aside(self.after, self.call, first)
            if changed is None:
                return None
            changed = [*changed] if several else changed
            if isinstance(output, tuple):
                return (changed, *output[1:])
            name = next(iter(output.keys()))
            return type(output)(**{**output, name: changed})

        yield model.register_forward_pre_hook(pre, with_kwargs=True)
        yield model.register_forward_hook(post)

    def _next(self, seen: Arguments) -> Call:
        apart = self.guided and not self.driver.together
        number, place = divmod(self.calls, 2) if apart else (self.calls, 0)
        self.calls += 1
        half = self.driver.halves[place] if apart else None
        return Call(self.driver, seen, half, number, self.guided)

    def _aside(self, what: Callable[..., Any] | None, *given: Any) -> Any:
        if what is None:
            return None
        self.idle = True
        try:
            return what(*given)
        finally:
            self.idle = False


class Differences:
    """|with - without the prompt| over |without| of the denoiser's outputs, step by step."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    @staticmethod
    def shares(given: Tensor, empty: Tensor) -> Float64[Tensor, " images"]:
        """What the prompt changes, in units of what is there without it."""
        return _length(given - empty) / _length(empty).clamp(min=1e-12)

    def halves(self, call: Call, output: Tensor) -> tuple[Tensor, Tensor] | None:
        """The outputs with and without the prompt."""
        if call.half is None:
            return output[call.rows(CONDITIONAL)], output[call.rows(UNCONDITIONAL)]
        if call.half == call.driver.halves[0]:
            self.kept = output
            return None
        first, self.kept = self.kept, None
        if first is None:
            return None
        return (output, first) if call.half == CONDITIONAL else (first, output)


def _length(values: Tensor) -> Float64[Tensor, " images"]:
    return exact(values).flatten(1).norm(dim=1).cpu()
