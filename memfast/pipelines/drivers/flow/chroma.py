"""Chroma: Flux's blocks, T5 alone, rows with and without the prompt in calls of their own."""

from collections.abc import Sequence
from functools import cached_property

from jaxtyping import Bool
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.packed import Packed
from memfast.pipelines.drivers.reading import Reader


class Chroma(Packed):
    """The mask has a row for every row of text, then of the image; one padded row is let in.

    It reaches attention as a bias of 0 or 1, so padding is attended to, only less; but every
    prompt is padded to the limit: none depends on its batch.
    """

    kind = "Chroma"
    pipelines = ("ChromaPipeline",)
    siblings = ("ChromaImg2ImgPipeline", "ChromaInpaintPipeline")
    leaves = ("encoder_hidden_states", "attention_mask")

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        return (Reader(self.pipeline.tokenizer, default(self.pipeline, "max_sequence_length")),)

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        tokens = seen["encoder_hidden_states"].shape[1]
        return seen["attention_mask"][:, :tokens] > 0
