"""Families that no example model has, by diffusers' own blocks; and what only looks like one."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from memfast import InputError, compact, ffn_sites, prune
from memfast.blocks.families import FAMILIES, find_sites
from memfast.blocks.families.examples import EXAMPLES, tiny
from tests.support.models import THIRD_PARTY, random_subspace

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]
CHANNELS, NEURONS = 8, 20
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "OmniGenFeedForward": ("transformer_omnigen", {"intermediate_size": NEURONS}),
    "StableAudio3FeedForward": ("transformer_stable_audio3", {"mult": 2.5}),
    "HiDreamImageFeedForwardSwiGLU": (
        "transformer_hidream_image",
        {"hidden_dim": 30, "multiple_of": 4},
    ),
    "AceStepMLP": ("ace_step_transformer", {"intermediate_size": NEURONS}),
    "ErnieImageFeedForward": ("transformer_ernie_image", {"ffn_hidden_size": NEURONS}),
    "Krea2SwiGLU": ("transformer_krea2", {"hidden_dim": NEURONS}),
    "QwenImage21SwiGLUFeedForward": ("transformer_qwenimage21", {"mlp_hidden_size": NEURONS}),
    "Kandinsky5FeedForward": ("transformer_kandinsky", {"ff_dim": NEURONS}),
    "AudioDiTFeedForward": ("transformer_longcat_audio_dit", {"mult": 2.5}),
    "Flux3FeedForward": ("transformer_flux3", {"inner_dim": NEURONS}),
    "GLUMBTempConv": ("transformer_sana_video", {"out_channels": CHANNELS, "expand_ratio": 2.5}),
}
FRAMES = {"GLUMBTempConv": (4, 5)}  # height and width of each
WITHIN_A_BLOCK = {"ffn.0", "ff_in"}  # their neurons are found below, without running the block


def block_of(name: str) -> nn.Module:
    module, arguments = BLOCKS[name]
    torch.manual_seed(0)
    found = getattr(import_module(f"diffusers.models.transformers.{module}"), name)
    return found(CHANNELS, **arguments).eval()


@pytest.mark.parametrize("name", BLOCKS)
def test_compact_equals_masked(name: str) -> None:
    model = nn.ModuleDict({"ff": block_of(name)})
    assert ffn_sites(model) == {"ff": NEURONS}
    subspace = random_subspace(model)
    rows = torch.randn(2, 3, *FRAMES.get(name, ()), CHANNELS)
    with torch.no_grad():
        small = compact(model, subspace, multiple_of=1)["ff"](rows)
        masked = prune(model, subspace, compensate="mean")["ff"](rows)
        whole = model["ff"](rows)
    torch.testing.assert_close(small, masked, atol=1e-6, rtol=0)
    assert not torch.allclose(small, whole, atol=1e-3)


def test_every_entry_of_the_table_is_tested() -> None:
    models = [*map(tiny, EXAMPLES), *(nn.ModuleDict({"ff": block_of(name)}) for name in BLOCKS)]
    seen = {site.family for model in models for site in find_sites(model).values()}
    assert {family.expand[0] for family in FAMILIES if family not in seen} == WITHIN_A_BLOCK


def test_blocks_that_hold_their_linears_themselves() -> None:
    music = nn.Module()
    music.ff_in, music.ff_out = nn.Linear(8, 40), nn.Linear(20, 8)
    animate = nn.Module()
    animate.ffn = nn.Sequential(nn.Linear(8, 20), nn.GELU(), nn.Linear(20, 8))
    assert ffn_sites(nn.ModuleList([music, animate])) == {"0": 20, "1": 20}


def test_a_chain_of_linears_is_no_gate() -> None:
    chain = nn.Module()  # as HunyuanVideo 1.5 projects its text
    for number in (1, 2, 3):
        setattr(chain, f"linear_{number}", nn.Linear(8, 8))
    with pytest.raises(InputError, match="no feed-forward"):
        ffn_sites(chain)
