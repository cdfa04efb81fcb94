"""One call of a guarded pipeline: looked at, acted on, recorded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from memfast.guarding.calibration import BySteps, GuardCalibration
from memfast.guarding.looking import PromptLook
from memfast.guarding.pictures import blank, pixels
from memfast.guarding.policies import POLICIES, Flagged
from memfast.guarding.running import Call, Differences, Watch, guidance_of, texts_of
from memfast.pipelines.drivers.calls import Arguments
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL
from memfast.pipelines.loading import denoisers_of


class Again(Exception):
    """Ends a run that is to start from other noises; never leaves a guard."""


@dataclass
class Record:
    """What a guard saw of one image, and did.

    prompt: None where embeddings were given. score: above the threshold it is flagged; None where
    the run ended before it was known. policy: the one that settled it, or the last. after: the
    score that the policy left, where it looked again. copied: the training image that it copies, by
    the index of `verify`. withheld: a black image was given in its place.
    """

    prompt: str | None
    score: float | None = None
    flagged: bool = False
    policy: str | None = None
    after: float | None = None
    copied: str | None = None
    withheld: bool = False


@runtime_checkable
class Watching(Protocol):
    """What a run needs of its guard."""

    pipeline: Any
    driver: Driver
    calibration: GuardCalibration
    policies: tuple[str, ...]
    look: PromptLook | None
    threshold: float
    seed: int

    def scores(self, told: Conditioning) -> Float64[Tensor, " prompts"]:
        """The score of each prompt before the first step."""
        ...

    def copies(self, images: Tensor) -> list[str | None]:
        """Of each image the training image that it copies, or None."""
        ...


class GuardedRun:
    """A run of a guarded pipeline. Policies act on it: see `policies.Acting`."""

    def __init__(self, guard: Watching, asked: Arguments) -> None:
        self.guard, self.texts = guard, texts_of(asked)
        self.weight = guidance_of(guard.driver, asked)
        self.seed, self.look = guard.seed, guard.look
        self.records: list[Record] = []
        self._leaves: dict[int, Mapping[str, Tensor]] = {}
        self._noises: dict[int, Tensor] = {}
        self._softened: set[int] = set()
        self._told: Conditioning | None = None
        self._states = _random_states(asked)

    # ------------------------------------------------------------------ the run

    def made(self, own: Callable[[], Any]) -> Any:
        """What the pipeline's `own` call returns, under guard."""
        try:
            output = self._once(own)
        except Again:
            self._states()
            with self._noises_in_place():
                output = self._once(own)
        return self._finished(output)

    def _once(self, own: Callable[[], Any]) -> Any:
        self._differences: list[Tensor] = []
        self._halves = Differences()
        watch = Watch(self.guard.driver, self.weight, self._before, self._after)
        with watch.on(denoisers_of(self.guard.pipeline)):
            return own()

    def _before(self, call: Call) -> Arguments | None:
        if call.tells and not self.records:
            texts = self.texts or [None] * call.images
            self.records = [Record(text) for text in texts]
            self._told = call.told(self.texts)
            if self.guard.look is not None:
                self._judge(self.guard.scores(self._told))
        return self._retold(call) if self._leaves and call.tells else None

    def _retold(self, call: Call) -> Arguments:
        seen, start = dict(call.seen), call.rows(CONDITIONAL).start
        for name in call.driver.searched:
            seen[name] = seen[name].clone()
            for place, leaves in self._leaves.items():
                seen[name][start + place] = leaves[name][0].to(seen[name])
        return seen

    def _after(self, call: Call, output: Tensor) -> Tensor | None:
        calibration = self.guard.calibration
        if not isinstance(calibration, BySteps) or self.weight is None:
            return None
        looking = call.number < calibration.steps
        if not looking and not self._softened:
            return None
        pair = self._halves.halves(call, output)
        if pair is None:
            return None
        shares = Differences.shares(*pair)
        if looking:
            self._differences.append(shares)
        if call.number == calibration.steps - 1 and self.records[0].score is None:
            self._judge(calibration.scores(torch.stack(self._differences, 1)))
        if not self._softened:
            return None
        usual = float(calibration.usual[min(call.number, calibration.steps - 1)])
        return self._soft(call, output, pair, (usual / shares).clamp(max=1))

    def _soft(
        self, call: Call, output: Tensor, pair: tuple[Tensor, Tensor], kept: Tensor
    ) -> Tensor:
        """The output after which guidance goes only so far at the softened places."""
        output, weight = output.clone(), self.weight or 1.0
        start = call.rows(CONDITIONAL).start if call.half is None else 0
        for place in self._softened:
            given, empty, share = pair[0][place], pair[1][place], float(kept[place])
            if call.half in (None, CONDITIONAL):
                output[start + place] = empty + share * (given - empty)
            else:  # the other half has gone by: this one makes the sum what it should be
                wanted = empty + weight * share * (given - empty)
                output[place] = (wanted - weight * given) / (1 - weight)
        return output

    def _judge(self, scores: Float64[Tensor, " images"]) -> None:
        """Record the scores, and let the policies act on what is flagged."""
        threshold, told = self.guard.threshold, self._told
        assert told is not None
        for record, score in zip(self.records, scores.tolist(), strict=True):
            record.score, record.flagged = score, not score <= threshold
        places = [place for place, record in enumerate(self.records) if record.flagged]
        if not places:
            return
        together: dict[bytes, list[int]] = {}
        alike = self.guard.look is not None
        for place in places:
            key = told.digest(place) if alike else str(place).encode()
            together.setdefault(key, []).append(place)
        images = [*together.values()]
        firsts = [own[0] for own in images]
        flagged = Flagged(
            [self.records[n].prompt or f"embeddings {n}" for n in firsts],
            told[torch.tensor(firsts)],
            scores[firsts],
            threshold,
            images,
            self,
        )
        for name in self.guard.policies:
            for place in flagged.places:
                self.records[place].policy = name
            settled = POLICIES[name].act(flagged)
            if settled.all():
                break
            flagged = flagged.part(~settled)
        if self._noises:
            raise Again

    # ------------------------------------------------------------------ what policies do

    def tell(self, places: Sequence[int], told: Conditioning) -> None:
        """Tell the denoiser this, one row, in place of the images' prompt."""
        self._leaves |= dict.fromkeys(places, told.searching())

    def rescored(self, flagged: Flagged, scores: Float64[Tensor, " prompts"]) -> None:
        """Record what a second look saw."""
        for own, score in zip(flagged.images, scores.tolist(), strict=True):
            for place in own:
                self.records[place].after = score

    def start_from(self, place: int, noise: Tensor) -> None:
        """Begin the run again, an image's with another initial noise."""
        self._noises[place] = noise

    def soften(self, places: Sequence[int]) -> None:
        """Bring guidance down to its usual share at every step from now on."""
        self._softened |= set(places)

    def withhold(self, places: Sequence[int]) -> None:
        """Give black images in the place of these."""
        for place in places:
            self.records[place].withheld = True

    # ------------------------------------------------------------------ its ends

    @contextmanager
    def _noises_in_place(self) -> Iterator[None]:
        """Within the context the pipeline's noise is replaced where another was chosen."""
        pipeline = self.guard.pipeline
        prepare = pipeline.prepare_latents

        def prepared(*args: Any, **kwargs: Any) -> Any:
            found = prepare(*args, **kwargs)
            own = found[0] if isinstance(found, tuple) else found
            others = self._told_noises(len(own))
            given = signature(prepare).bind(*args, **kwargs)
            given.arguments["latents"] = others
            made = prepare(*given.args, **given.kwargs)
            places = [*self._noises]
            latents = own.clone()
            latents[places] = (made[0] if isinstance(made, tuple) else made)[places]
            return (latents, *found[1:]) if isinstance(found, tuple) else latents

        pipeline.prepare_latents = prepared
        try:
            yield
        finally:
            del pipeline.prepare_latents

    def _told_noises(self, images: int) -> Tensor:
        """What the pipeline is given as its `latents`: the noises that were chosen, each in its
        place, and any one in the others."""
        some = next(iter(self._noises.values()))
        return torch.stack([self._noises.get(place, some) for place in range(images)])

    def _finished(self, output: Any) -> Any:
        if "verify" in self.guard.policies:
            found = self.guard.copies(torch.stack([pixels(image) for image in output[0]]))
            for record, file in zip(self.records, found, strict=True):
                record.copied = file
                record.withheld |= file is not None
        withheld = [place for place, record in enumerate(self.records) if record.withheld]
        if withheld:
            blank(output[0], withheld)
        return output


def _random_states(asked: Arguments) -> Callable[[], None]:
    """What puts every source of the run's randomness back to where it is now."""
    given = asked.get("generator")
    sources = given if isinstance(given, list | tuple) else [given]
    kept = [(source, source.get_state()) for source in sources if source is not None]
    default = torch.random.get_rng_state()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None

    def back() -> None:
        for source, state in kept:
            source.set_state(state)
        if not kept:
            torch.random.set_rng_state(default)
            if on_devices is not None:
                torch.cuda.set_rng_state_all(on_devices)

    return back
