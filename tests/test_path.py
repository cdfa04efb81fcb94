"""The path, end to end, on a tiny pipeline: collect, locate, compact, save, reload, generate."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel

import memfast
from memfast.removing.masking import prune

SHORT = {"steps": 2, "num_inference_steps": 4, "guidance_scale": 2.0}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_whole_path(
    tiny_pipeline: StableDiffusionPipeline, prompt_files: tuple[Path, Path], tmp_path: Path
) -> None:
    memorized, reference = (
        memfast.collect(tiny_pipeline, memfast.read_prompts(path), **SHORT) for path in prompt_files
    )
    dense = tiny_pipeline.unet
    subspace = memfast.locate(memorized, reference, dense, rule="neurons", fraction=0.25)
    assert subspace.density == pytest.approx(0.25, abs=1 / 256)

    smaller = memfast.compact(dense, subspace, multiple_of=1)
    masked = prune(dense, subspace, compensate="mean")
    assert isinstance(smaller, UNet2DConditionModel)
    removed = sum(int(mask.sum()) for mask in subspace.neurons.values())
    assert (
        sum(memfast.ffn_sites(smaller).values()) == sum(memfast.ffn_sites(dense).values()) - removed
    )
    lost = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in smaller.parameters())
    assert lost == removed * (2 * 32 + 2 + 32)  # value and gate rows, their biases, one column

    inputs = (torch.randn(2, 4, 8, 8), 500, torch.randn(2, 12, 32))
    with torch.no_grad():
        small, mask, full = (model(*inputs).sample for model in (smaller, masked, dense))
    torch.testing.assert_close(small, mask, atol=1e-5, rtol=0)
    assert not torch.allclose(small, full, atol=1e-5)

    tiny_pipeline.unet = smaller
    tiny_pipeline.save_pretrained(tmp_path / "safe-model")
    reloaded = DiffusionPipeline.from_pretrained(tmp_path / "safe-model")
    assert type(reloaded.unet).__name__ == "CompactUNet2DConditionModel"
    with torch.no_grad():
        assert torch.equal(reloaded.unet(*inputs).sample, small)
    images = [
        pipeline(
            ["a cat"],
            num_inference_steps=2,
            guidance_scale=2.0,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        for pipeline in (tiny_pipeline, reloaded)
    ]
    assert torch.equal(*images)


def test_readme_path_leaves_the_original_alone(
    tiny_pipeline: StableDiffusionPipeline, prompt_files: tuple[Path, Path]
) -> None:
    before = {name: p.clone() for name, p in tiny_pipeline.unet.state_dict().items()}
    modules = [id(module) for module in tiny_pipeline.unet.modules()]
    sets = [memfast.collect(tiny_pipeline, memfast.read_prompts(p), **SHORT) for p in prompt_files]
    subspace = memfast.locate(*sets, tiny_pipeline.unet, fraction=0.5)
    memfast.compact(tiny_pipeline.unet, subspace)
    memfast.prune(tiny_pipeline.unet, subspace)
    assert [id(module) for module in tiny_pipeline.unet.modules()] == modules
    after = tiny_pipeline.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
