"""Which rows of which denoiser call belong to what: steps, and both halves of guidance."""

from collections.abc import Callable, Sequence

import torch

from memfast.errors import InputError
from memfast.observing.side_by_side import Places, Row
from memfast.observing.tracing import Trace
from memfast.pipelines.drivers.calls import Arguments, Ended, nested, run, watched
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.schedule import Schedule

Call = dict[str, Row]  # "conditional" or "unconditional" -> statistics, an image each


class Listener:
    """Hears a pipeline's own run: what the neurons did at each step, by half of guidance.

    without_prompt: rows without the prompt are wanted; where guidance has none of its own, the null
    caption's are computed at the same latents. padding: count the text's padding rows too.
    """

    def __init__(
        self,
        driver: Driver,
        traced: Trace,
        schedule: Schedule,
        *,
        without_prompt: bool = False,
        padding: bool = False,
    ):
        self.driver, self.traced, self.schedule = driver, traced, schedule
        self.places = Places({path: site.neurons for path, site in traced.sites.items()})
        self.guided = driver.guided(schedule)
        self.without_prompt, self.padding = without_prompt, padding

    def run(
        self,
        texts: Sequence[str],
        sources: Sequence[torch.Generator],
        steps: int,
        end_of_step: Callable[[int, Call], None],
    ) -> None:
        """The first `steps` steps; each ends with `end_of_step`, told its number, and statistics
        where they were taken. Nothing is denoised after the last. sources: of the noise.

        Raises InputError for a schedule of fewer steps, and a denoiser that is called in other ways
        than its driver says.
        """
        call: Call = {}
        done = 0
        rows_of: dict[int, torch.Tensor | None] = {}  # of the text, by a step's call: of all steps
        inside = False  # the null caption's pass

        def before(seen: Arguments) -> None:
            if not inside:
                self._check_time(seen, len(call))
                number = len(call)
                if number not in rows_of:
                    rows_of[number] = self._text_rows(texts, seen, number)
                self.traced.text_rows = rows_of[number]

        def after(seen: Arguments) -> None:
            nonlocal done, inside
            if inside:
                return
            call.update(self._halves(len(texts), len(call)))
            if self.guided and len(call) < 2:
                return
            if self.without_prompt and UNCONDITIONAL not in call:
                inside = True
                call[UNCONDITIONAL] = self._null(seen, len(texts))
                inside = False
            end_of_step(done, dict(call))
            call.clear()
            done += 1
            if done == steps:
                raise Ended

        noise = self.driver.noise_of(sources)
        if self.without_prompt and not self.guided:
            self.driver.no_prompt  # noqa: B018 - a run of its own, which must not fall into this one
        with watched(self.driver.models, before, after):
            run(
                self.driver.pipeline,
                prompt=list(texts),
                latents=noise,
                generator=list(sources),
                output_type="latent",
                **self.driver.call(len(texts), self.schedule),
            )
        if done < steps:
            raise InputError(f"steps: the schedule makes only {done}, not {steps}")

    def _check_time(self, seen: Arguments, calls: int) -> None:
        """Halves in calls of their own are of one step: else the calls are not what they seem."""
        if not self.guided or self.driver.together:
            return
        time = float(torch.as_tensor(seen[self.driver.time_argument]).flatten()[0])
        if calls and time != self.time:
            raise InputError(
                f"{type(self.driver.owner).__name__}: calls its denoiser at {self.time:g} and "
                f"{time:g} where the driver of {self.driver.kind} expects both halves of a step"
            )
        self.time = time

    def _text_rows(self, texts: Sequence[str], seen: Arguments, calls: int) -> torch.Tensor | None:
        """Which rows of the text stream are no padding in a step's call number `calls`."""
        if self.padding:
            return None
        driver, null = self.driver, [self.driver.null] * len(texts)
        if not self.guided:
            return driver.text_rows(texts, seen)
        of_half = {CONDITIONAL: list(texts), UNCONDITIONAL: null}
        if driver.together:
            both = [text for half in driver.halves for text in of_half[half]]
            return driver.text_rows(both, seen)
        return driver.text_rows(of_half[driver.halves[calls]], seen)

    def _halves(self, images: int, calls: int) -> Call:
        """One call's statistics by half of guidance."""
        moments = self.traced.drain()
        model = next(iter(moments)).partition(".")[0]
        self.ran = self.driver.models.get(model, self.driver.model)
        together = self.guided and self.driver.together
        segments = {len(m.count) for m in moments.values()}
        if segments != {images * (1 + together)}:
            raise InputError(
                f"{type(self.driver.owner).__name__}: {images} prompts gave {sorted(segments)} "
                f"images in a denoiser call, not as the driver of {self.driver.kind} expects"
            )
        row = self.places.row(moments)
        if not together:
            return {self.driver.halves[calls] if self.guided else CONDITIONAL: row}
        parts = slice(0, images), slice(images, None)
        return {
            half: row.images(part) for half, part in zip(self.driver.halves, parts, strict=True)
        }

    def _null(self, seen: Arguments, images: int) -> Row:
        """The null caption's statistics where a call with the prompts has just been."""
        null = self.driver.no_prompt.expand(images)
        self.traced.text_rows = None if self.padding else null.text_rows
        own = {name: seen[name] for name in self.driver.own if name in seen}
        self.ran(**nested({**seen, **null.shared, **null.leaves, **own}))
        return self.places.row(self.traced.drain())
