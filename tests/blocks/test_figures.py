"""The figures that `memfast families` lists, counted again where that is quick."""

import pytest
from diffusers import UNet2DConditionModel

from memfast.blocks.families import find_sites
from memfast.blocks.families.count import count
from memfast.blocks.families.examples import EXAMPLES, tiny, tiny_inputs
from memfast.blocks.families.figures import FIGURES
from memfast.blocks.sizes import flops_of, size_of
from tests.support.models import THIRD_PARTY

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]


def test_every_example_has_figures() -> None:
    assert list(FIGURES) == list(EXAMPLES)


@pytest.mark.parametrize("name", ["SD 1.4", "PixArt-Σ", "CLIP-L", "SVD", "Lumina 2"])
def test_figures(name: str) -> None:
    assert count(name) == FIGURES[name]


def test_flops_of_feed_forwards_by_hand() -> None:
    model = tiny("SD 1.4")
    total, ours = flops_of(model, tiny_inputs("SD 1.4", model))
    by_hand = 0
    for path, site in find_sites(model).items():
        channels, latents = (64, 16) if path.startswith("mid_block") else (32, 64)
        by_hand += 2 * (2 * latents) * site.neurons * 3 * channels  # value, gate, output
    assert ours == by_hand
    assert ours < total


def test_size_counts_what_is_there() -> None:
    model = tiny("SD 1.4")
    assert isinstance(model, UNet2DConditionModel)
    size = size_of(model.half())
    assert size.bytes == 2 * size.parameters
    assert size.neurons == 3 * 128 + 256
    assert size.feed_forward == sum(
        p.numel()
        for name, p in model.named_parameters()
        if ".ff." in name and not name.endswith("net.2.bias")
    )
