"""What Kolors has of its own: ChatGLM's length of 256, padded on its left."""

import torch

from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.table import build


def test_reads_256_tokens() -> None:
    """A token is a character, after two marks and the beginning of a word."""
    driver = driver_of(build("kolors"))
    assert driver.truncated(["a" * 253, "a" * 254]).tolist() == [False, True]
    said = driver.encode(["a" * 253, "a" * 254, "b" + "a" * 253]).leaves["encoder_hidden_states"]
    assert said.shape == (3, 256, 32)
    assert torch.equal(said[0], said[1])  # the last character is not read
    assert not torch.equal(said[0], said[2])
