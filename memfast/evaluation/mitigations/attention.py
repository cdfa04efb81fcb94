"""Ren et al. 2024 (arXiv 2403.11052), at inference: cross-attention is rescaled.

Attention to the summary tokens (the padding after the end token) is masked out, and the beginning
token's logit is multiplied by 1.25, in the conditional rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memfast.evaluation.mitigations.interface import Setting, Treated, in_batches, stacked
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.schedule import Schedule

SCALE = 1.25


class Rescaled:
    """An attention processor for cross-attention whose prompts' lengths are known.

    kept: bool [images, tokens], False on summary tokens. With twice as many rows as images the
    first half is unconditional and stays as it is.
    """

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states), out_dim=4)
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states), out_dim=4)
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states), out_dim=4)
        logits = query @ key.transpose(-1, -2) * attn.scale
        conditional = logits[-len(self.kept) :]
        conditional[..., 0] *= SCALE
        conditional.masked_fill_(~self.kept[:, None, None].to(logits.device), float("-inf"))
        mixed = logits.softmax(-1) @ value
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


def cross_attentions(model: nn.Module) -> dict[str, Any]:
    """Module path of each cross-attention -> the module."""
    return {
        path: module
        for path, module in model.named_modules()
        if getattr(module, "is_cross_attention", False)
    }


@contextmanager
def rescaled(model: nn.Module, kept: Tensor) -> Iterator[None]:
    """Within the context the model's cross-attention is rescaled; afterwards it is as before."""
    modules = cross_attentions(model)
    before = {path: module.processor for path, module in modules.items()}
    try:
        for module in modules.values():
            module.set_processor(Rescaled(kept))
        yield
    finally:
        for path, module in modules.items():
            module.set_processor(before[path])


def kept_tokens(driver: Driver, texts: Sequence[str]) -> Tensor:
    """bool [prompts, tokens]: everything up to and including the end token."""
    tokenizer = driver.pipeline.tokenizer
    length = tokenizer.model_max_length
    ids = tokenizer(list(texts), truncation=True, max_length=length).input_ids
    lengths = torch.tensor([len(tokens) for tokens in ids])
    return torch.arange(length) < lengths[:, None]


def rescaling(setting: Setting) -> Treated:
    """Cross-attention rescaled while images are made; needs no located prompt."""

    def generate(
        driver: Driver,
        texts: Sequence[str],
        ids: Sequence[str],
        seed: int,
        schedule: Schedule,
    ) -> Tensor:
        images = []
        for some, names in in_batches(texts, ids):
            embeddings = driver.encode(some)
            with rescaled(driver.model, kept_tokens(driver, some)):
                images.append(driver.generate(embeddings, names, seed, schedule))
        return stacked(images)

    return Treated(setting.driver, generate)
