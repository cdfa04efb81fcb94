"""How much of a text a pipeline reads, and which of the rows that it makes of it are padding."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor


class Reader:
    """A tokenizer that reads so many tokens of a text, special ones included.

    limit: the tokenizer's own where it is not given.
    """

    def __init__(self, tokenizer: Any, limit: int | None = None):
        self.tokenizer = tokenizer
        self.limit: int = limit or tokenizer.model_max_length

    def truncates(self, texts: Sequence[str]) -> Bool[Tensor, " texts"]:
        """Which texts are longer."""
        ids = self.tokenizer(list(texts), verbose=False).input_ids
        return torch.tensor([len(tokens) > self.limit for tokens in ids], dtype=torch.bool)

    def rows(self, texts: Sequence[str]) -> Bool[Tensor, "texts tokens"]:
        """Which of a text's rows are its own where all are padded to the limit."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.limit,
            truncation=True,
            return_tensors="pt",
        )
        return tokens.attention_mask.bool()
