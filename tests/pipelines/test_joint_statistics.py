"""Statistics of kinds in which text passes feed-forwards, against plain hooks in their own runs."""

import pytest
import torch

from memfast.observing.collecting import collect
from memfast.pipelines.drivers.table import driver_of
from memfast.prompts import Prompt
from tests.support.streams import neurons
from tests.support.tiny.table import build

TEXTS = ["a red cat", "b", "a dog on a blue background"]
PROMPTS = [Prompt(id, text) for id, text in zip("xyz", TEXTS, strict=True)]
KINDS = ["sd3", "sd3-no-t5", "flux-dev", "flux2", "klein", "chroma"]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_equal_what_plain_hooks_see_of_rows_that_are_no_padding(name: str, batch_size: int) -> None:
    pipeline = build(name)
    driver = driver_of(pipeline)
    told = driver.encode(TEXTS)
    scale = driver._unguided.guidance_scale
    found = collect(
        pipeline,
        PROMPTS,
        steps=1,
        num_inference_steps=2,
        guidance_scale=scale,
        batch_size=batch_size,
    )
    for path, rows in neurons(driver, TEXTS, "xyz").items():
        counted = driver.counted(path, told.text_rows, rows.shape[1])
        kept = rows.flatten(0, 1) if counted is None else rows[counted]
        moments = found.moments[path]
        assert moments.count.unique().tolist() == [len(kept)]
        torch.testing.assert_close(moments.mean[0].float(), kept.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*KINDS, "klein-distilled"])
def test_both_halves_do_not_depend_on_the_batch(name: str) -> None:
    """Where guidance has no rows without the prompt, the null caption's are computed beside."""
    settings = {"steps": 2, "num_inference_steps": 3, "rows": "both"}
    one, three = (
        collect(build(name), PROMPTS, batch_size=size, **settings).moments for size in (1, 3)
    )
    for path, moments in one.items():
        assert torch.equal(moments.count, three[path].count)
        torch.testing.assert_close(moments.mean, three[path].mean, rtol=1e-5, atol=1e-6)
