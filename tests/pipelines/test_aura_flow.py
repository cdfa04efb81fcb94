"""AuraFlow: which rows are padding, as the model itself shows."""

import torch

from memfast.blocks.families.finding import find_sites
from memfast.pipelines.drivers.table import driver_of
from tests.support.tiny.table import build


def test_padding_rows_are_all_alike_and_the_others_are_not() -> None:
    """Padding is zeros without positions: at every site its rows are the same."""
    driver = driver_of(build("aura-flow"))
    told = driver.encode(["a red cat", "b"])
    assert told.text_rows is not None
    assert told.text_rows.sum(1).tolist() == [8 + 2 + 9, 8 + 2 + 1]  # registers, a start, an end
    streams = set()
    for path, site in find_sites(driver.model).items():
        streams.add(stream := driver.stream(path))
        seen: list[torch.Tensor] = []
        hook = site.contraction.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            driver.predict(driver.initial_noise(["a", "b"], 0), 500.0, told)
        hook.remove()
        own = driver.counted(path, told.text_rows, seen[0].shape[1])
        if stream == "image":
            assert own is None
            assert seen[0].shape[1] == 64
            continue
        assert own is not None
        assert own.shape == seen[0].shape[:2]
        for rows, counted in zip(seen[0], own, strict=True):
            padding = rows[~counted]
            torch.testing.assert_close(padding, padding[:1].expand_as(padding))
            assert ((rows[counted] - padding[0]).abs().amax(1) > 1e-3).all()
    assert streams == {"image", "text", "text+image"}


def test_truncated_at_the_call_s_limit() -> None:
    driver = driver_of(build("aura-flow"))
    assert driver.truncated(["a" * 254, "a" * 255]).tolist() == [False, True]
