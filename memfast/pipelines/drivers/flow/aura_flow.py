"""AuraFlow: UMT5, two streams and then one; its own size is its call's, not its config's."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memfast.pipelines.drivers.calls import Arguments, default
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.reading import Reader


class AuraFlow(Driver):
    """Prompts are padded to 256 tokens with zeros, which the model's attention does not mask.

    The model puts register tokens before the text: no padding, in the text's stream.
    """

    kind = "AuraFlow"
    pipelines = ("AuraFlowPipeline",)
    streams: ClassVar = {"ff_context": "text", "single_transformer_blocks": "text+image"}

    def truncated(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        limit = default(self.pipeline, "max_sequence_length")
        return Reader(self.pipeline.tokenizer, limit).truncates(texts)

    def model_time(self, times: Float[Tensor, " rows"]) -> Tensor:
        return (times / 1000).to(self.dtype)

    def text_rows(self, texts: Sequence[str], seen: Arguments) -> Bool[Tensor, "prompts tokens"]:
        own = (seen["encoder_hidden_states"] != 0).any(-1)
        registers = self.pipeline.transformer.register_tokens.shape[1]
        return torch.cat([own.new_ones(len(own), registers), own], 1)
