"""HunyuanDiT: BERT and T5 with their masks, sizes, a style, rotary positions; a learned sigma."""

from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.paths import Latents
from memfast.pipelines.drivers.reading import Reader


class HunyuanDiT(Driver):
    """No text passes a feed-forward.

    Padding is replaced by learned rows, as many for every text, so that no batch matters.
    """

    kind = "HunyuanDiT"
    pipelines = ("HunyuanDiTPipeline",)
    siblings = ("HunyuanDiTControlNetPipeline",)
    needs = ("vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "scheduler")
    leaves = (
        "encoder_hidden_states",
        "text_embedding_mask",
        "encoder_hidden_states_t5",
        "text_embedding_mask_t5",
    )
    searched = ("encoder_hidden_states", "encoder_hidden_states_t5")
    own = ("image_meta_size", "style")

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        return Reader(self.pipeline.tokenizer, 77), Reader(self.pipeline.tokenizer_2, 256)

    def model_time(self, times: Float[Tensor, " rows"]) -> Tensor:
        return times.to(self.dtype)  # which all of the time's embedding is computed in

    def raw(self, output: Any) -> Latents:
        return output.chunk(2, dim=1)[0]
