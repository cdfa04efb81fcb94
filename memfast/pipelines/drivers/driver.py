"""A pipeline's denoiser as plain tensors: encode, add noise, predict, judge, generate.

What every kind shares. A kind's file says how its pipelines differ; see `Driver`.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from memfast.memory.portions import Portion
from memfast.pipelines.drivers.calls import LENGTHS, Arguments, nested, run, watched
from memfast.pipelines.drivers.codecs import Codec, Images, Scaled
from memfast.pipelines.drivers.conditioning import Conditioning, rows_of_each
from memfast.pipelines.drivers.guidance import UNCONDITIONAL, Telling, Texts
from memfast.pipelines.drivers.kind import Kind
from memfast.pipelines.drivers.paths import Latents, Times, several
from memfast.pipelines.drivers.reading import Reader
from memfast.pipelines.fitting import portion, texts_at_once
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule, Wanted
from memfast.precision import wide

IMAGES = 48  # made at once


class Driver(Kind):
    """Plain-tensor access to one pipeline's parts; changes none of them.

    A kind is a subclass that says, by the attributes of `Kind`, how its pipelines differ, and
    overrides a method where a word is not enough. Latents are what the pipeline takes as `latents`.
    """

    # ------------------------------------------------------------------ conditioning

    def prepare(self, texts: Sequence[str]) -> Any:
        """What `embed` takes, for any number of texts; may be indexed by lists of rows."""
        return Texts(texts)

    def embed(self, prepared: Any) -> Conditioning:
        """The conditioning of what `prepare` made."""
        return self.encode(list(prepared))

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """What the denoiser is told of the texts, as the pipeline itself tells it."""
        (seen,) = self._first_calls(texts, self._unguided)
        return self.conditioning(texts, seen)

    def encode_all(self, texts: Sequence[str]) -> Conditioning:
        """The same for a list of any length."""
        parts = texts_at_once(self.pipeline).over(len(texts), lambda part: self.encode(texts[part]))
        return Conditioning.cat([*parts])

    def portion(self, useful: int, *, rows: int = 1, **how: bool) -> Portion:
        """How many items of `rows` rows fit, at most `useful`: see `pipelines.fitting.portion`."""
        return portion(self, useful, rows, **how)

    def alike(self, texts: Sequence[str]) -> list[Tensor]:
        """Places of the texts that may share a run: what one is read as depends on no other."""
        return [torch.arange(len(texts))]

    @cached_property
    def no_prompt(self) -> Conditioning:
        """What the denoiser is told without a prompt: one row."""
        guided = Schedule(self._unguided.num_inference_steps, 2.0)
        if not self.guided(guided):
            return self.encode([self.null])
        seen = self._first_calls([self.null], guided, 1 if self.together else 2)
        place = self.halves.index(UNCONDITIONAL)
        if not self.together:
            return self.conditioning([self.null], seen[place])
        return self.conditioning([self.null] * 2, seen[0])[place : place + 1]

    def conditioning(self, texts: Sequence[str], seen: Arguments) -> Conditioning:
        """The conditioning in a call of the denoiser for these texts."""
        latents = self.latents_argument
        aside = (latents, latents + LENGTHS, self.time_argument, "return_dict")
        leaves = {n: seen[n] for n in (*self.leaves, *self.own) if seen.get(n) is not None}
        shared = {n: v for n, v in seen.items() if n not in (*aside, *leaves)}
        return Conditioning(leaves, self.searched, shared, self.text_rows(texts, seen))

    def text_rows(
        self, texts: Sequence[str], seen: Arguments
    ) -> Bool[Tensor, "prompts tokens"] | None:
        """Which rows of the text stream are no padding; None where no text passes there."""
        return None

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """The tokenizers that a prompt passes, and how much of it each reads."""
        return (Reader(self.pipeline.tokenizer),)

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        """Which texts are longer than the pipeline reads: no tokenizer reads them to their end."""
        return torch.stack([reader.truncates(texts) for reader in self.readers]).all(0)

    # ------------------------------------------------------------------ latents

    def initial_noise(self, ids: Sequence[str], seed: int) -> Latents:
        """The latents that generation starts from: one image's depend on its id and seed alone."""
        return self.noise_of([generator(i, seed) for i in ids])

    def noise_of(self, sources: Sequence[torch.Generator]) -> Latents:
        """Pure noise, one image's from each generator, drawn as the pipeline draws it."""
        noise = torch.stack([torch.randn(self.noise_shape, generator=s) for s in sources])
        return self.pack(noise).to(self.device, self.dtype)

    def pack(self, maps: Tensor) -> Latents:
        """Latents [images, channels, height, width] as the pipeline takes them."""
        return maps

    def unpack(self, latents: Latents) -> Tensor:
        """The inverse of `pack`."""
        return latents

    # ------------------------------------------------------------------ predicting

    def predict(self, latents: Latents, time: Times, conditioning: Conditioning) -> Latents:
        """The denoiser's output, as the noise path reads it. Differentiable.

        latents: as the path's `add` makes them, whatever the scheduler. time: the scheduler's own.
        """
        labels = self.calls_of(time, conditioning)
        parts = [] if labels is None else rows_of_each(labels)
        if len(parts) < 2:
            return self._predicted(latents, time, conditioning)
        times, outputs = several(time, len(latents), latents.device), []
        try:
            for rows in parts:
                self.part = rows
                outputs.append(self._predicted(latents[rows], times[rows], conditioning[rows]))
        finally:
            self.part = None
        return torch.cat(outputs)[torch.cat(parts).argsort()]

    part: Tensor | None = None  # rows in the running call, where `predict` makes several

    def of_call(self, values: Tensor) -> Tensor:
        """Of a value for each row of `predict`, those in the denoiser's running call."""
        return values if self.part is None else values[self.part]

    def of_all(self, values: Tensor, rows: int) -> Tensor:
        """The inverse: values of the running call's rows among zeros for all the others."""
        if self.part is None:
            return values
        return values.new_zeros(rows, *values.shape[1:]).index_copy(
            0, self.part.to(values.device), values
        )

    def calls_of(self, time: Times, conditioning: Conditioning) -> Int64[Tensor, " rows"] | None:
        """A number for each row: those with different ones need calls of the denoiser of their own,
        None where one call takes all."""
        return None

    def _predicted(self, latents: Latents, time: Times, conditioning: Conditioning) -> Latents:
        """`predict` in one call of the denoiser, in its dtype."""
        told = conditioning.cast(self.dtype, self.own)
        arguments = self.arguments(latents.to(self.dtype), time, told)
        return self.raw(self.denoising(time)(**nested(arguments), return_dict=False)[0])

    def arguments(self, latents: Latents, time: Times, conditioning: Conditioning) -> Arguments:
        """All arguments of one call of the denoiser, flat."""
        told = {**conditioning.shared, **conditioning.leaves}
        when = self.model_time(several(time, len(latents), latents.device))
        return {**told, self.latents_argument: latents, self.time_argument: when}

    def denoising(self, time: Times) -> nn.Module:
        """The model for a time, where there are several."""
        return self.model

    def model_time(self, times: Float[Tensor, " rows"]) -> Tensor:
        """What the denoiser calls the scheduler's times."""
        return times

    def raw(self, output: Any) -> Latents:
        """The denoiser's output in the sign and channels of the noise path."""
        return output

    def loss(
        self, clean: Latents, conditioning: Conditioning, noise: Latents, time: Times
    ) -> Float[Tensor, " images"]:
        """Mean squared error of the prediction, per image, in float32. Differentiable."""
        output = self.predict(self.path.add(clean, noise, time), time, conditioning)
        error = wide(output) - wide(self.path.target(clean, noise, time))
        return error.square().flatten(1).mean(1)

    # ------------------------------------------------------------------ pictures

    @cached_property
    def codec(self) -> Codec:
        """The VAE."""
        return Scaled(self.pipeline.vae)

    @torch.no_grad()
    def encode_images(self, images: Images) -> Latents:
        """Latents (the posterior's mean) of images in [0, 1]."""
        return self.pack(self.codec.encode(images)).to(self.device, self.dtype)

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Images in [0, 1] of latents."""
        return self.codec.decode(self.unpack(latents))

    def pictures(self, output: Any) -> Images:
        """What the pipeline returns as `output_type="pt"`, as images in [0, 1]."""
        return output

    def generate(
        self,
        conditioning: Conditioning,
        ids: Sequence[str],
        seed: int,
        schedule: Wanted = None,
        *,
        seeds: Sequence[int] | None = None,
    ) -> Images:
        """Images in [0, 1] by the pipeline's own run, told `conditioning` in place of a prompt.

        An image depends on its conditioning, its id and the seed alone. seeds: what seeds each
        image's noise in their place. They are on the CPU.
        """
        schedule = self.schedule(schedule)

        def made(part: slice) -> Images:
            sources = (
                [generator(i, seed) for i in ids[part]]
                if seeds is None
                else [torch.Generator().manual_seed(own) for own in seeds[part]]
            )
            return self.decode(self._sampled(conditioning[part], sources, schedule)).cpu()

        fitting = self.portion(IMAGES, rows=1 + (self.guided(schedule) and self.together))
        return torch.cat([*fitting.over(len(ids), made)])

    def _sampled(
        self, conditioning: Conditioning, sources: list[torch.Generator], schedule: Schedule
    ) -> Latents:
        """The clean latents of one batch."""
        noise = self.noise_of(sources)
        with watched(
            self.models,
            Telling(conditioning, self.own, self.halves, self.together, self.guided(schedule)),
        ):
            (latents, *_) = run(
                self.pipeline,
                prompt=[self.null] * len(sources),
                latents=noise,
                generator=sources,
                output_type="latent",
                return_dict=False,
                **self.call(len(sources), schedule),
            )
        return self.finished(latents)

    def finished(self, output: Any) -> Latents:
        """What the pipeline returns as `output_type="latent"`, as latents."""
        return output

    # ------------------------------------------------------------------ which rows are whose

    def stream(self, path: str) -> str:
        """Which rows pass a site: "image", "text", "text+image" or "image+text"; "image,text" where
        it runs on one after the other."""
        words = path.split(".")
        return next((rows for word, rows in self.streams.items() if word in words), "image")

    def padded(self, path: str) -> bool:
        """Whether rows at a site may be padding."""
        return self.stream(path) != "image"

    def runs(self, path: str) -> int:
        """How often a site runs in one call of the denoiser."""
        return self.stream(path).count(",") + 1

    def counted(
        self,
        path: str,
        text_rows: Bool[Tensor, "images tokens"] | None,
        length: int,
        run: int = 0,
    ) -> Bool[Tensor, "images rows"] | None:
        """Which of the `length` rows of each image at a site are no padding; None for all.

        run: which of the site's runs in one call of the denoiser, where it makes several.
        """
        stream = self.stream(path).split(",")[run]
        if text_rows is None or stream == "image":
            return None
        if stream == "text":
            return text_rows[:, :length]
        others = text_rows.new_ones(len(text_rows), length - text_rows.shape[1])
        first = stream.startswith("text")
        return torch.cat([text_rows, others] if first else [others, text_rows], 1)
