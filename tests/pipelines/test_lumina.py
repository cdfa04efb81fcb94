"""Lumina-Next and Lumina 2: what is without a prompt, counts of rows, limits."""

import torch

from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.table import build


def test_lumina_2_has_no_system_prompt_without_a_prompt() -> None:
    driver = driver_of(build("lumina-2"))
    rows = driver.no_prompt.text_rows
    assert rows is not None
    assert rows.sum() == 1  # its start
    told = driver.encode(["", "abc"]).text_rows
    assert told is not None
    system = len(driver.pipeline.system_prompt + " <Prompt Start> ")
    assert told.sum(1).tolist() == [1 + system, 1 + system + 3]


def test_lumina_2_puts_padding_after_the_image() -> None:
    driver = driver_of(build("lumina-2"))
    rows = torch.tensor([[True, True, False], [True, False, False]])
    own = driver.counted("layers.0.feed_forward", rows, 66)
    assert own is not None
    assert own.sum(1).tolist() == [66, 65]
    assert not own[1, -1]


def test_lumina_2_is_truncated_with_its_system_prompt() -> None:
    driver = driver_of(build("lumina-2"))
    room = 256 - 1 - len(driver.pipeline.system_prompt + " <Prompt Start> ")
    assert driver.truncated(["a" * room, "a" * (room + 1)]).tolist() == [False, True]


def test_lumina_next_is_truncated_as_it_is_cleaned() -> None:
    driver = driver_of(build("lumina-next"))
    texts = ["  " + "A" * 255 + "  ", "a" * 256]
    assert driver.truncated(texts).tolist() == [False, True]
    told = driver.encode(["  Cat ", "cat"])
    assert torch.equal(*told.leaves["encoder_hidden_states"])
