"""A saved folder, opened as its reader would: with memfast, without it, by plain diffusers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from memfast import InputError, compact, ffn_sites, prune
from memfast.blocks.families.examples import EXAMPLES, tiny, tiny_inputs
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.loading import load_pipeline
from memfast.sharing.formats import FORMATS, save_as, to_dense
from tests.support.models import THIRD_PARTY, output, random_subspace

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]
INPUTS = {
    "sample": torch.linspace(-1, 1, 512).view(2, 4, 8, 8),
    "timestep": 500,
    "encoder_hidden_states": torch.linspace(-1, 1, 768).view(2, 12, 32),
}
STRANGER = """
import sys
sys.modules["memfast"] = None  # as where it is not installed
import torch
torch.set_num_threads(1)
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=sys.argv[3] == "yes")
images = pipeline(["a cat"], num_inference_steps=2, generator=torch.Generator().manual_seed(0),
                  output_type="pt", guidance_scale=2.0).images
names = [type(part).__name__ for part in (pipeline.unet, pipeline.text_encoder)]
torch.save((*names, images), sys.argv[2])
"""


@pytest.fixture
def small_pipeline(tiny_pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """The tiny pipeline with a compact UNet and a compact text encoder."""
    for name in ("unet", "text_encoder"):
        dense = getattr(tiny_pipeline, name)
        setattr(tiny_pipeline, name, compact(dense, random_subspace(dense), multiple_of=1))
    return tiny_pipeline


def image(pipeline: DiffusionPipeline) -> torch.Tensor:
    return pipeline(
        ["a cat"],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        guidance_scale=2.0,
    ).images


def as_a_stranger(folder: Path, out: Path, trust: bool) -> tuple[str, str, torch.Tensor]:
    """What plain diffusers makes of `folder` in a process where memfast cannot be imported."""
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        STRANGER,
        folder,
        out,
        "yes" if trust else "no",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return torch.load(out)


def test_compact_reloads_bit_equal(small_pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    save_as(small_pipeline, tmp_path / "out", "compact")
    reloaded = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(reloaded.text_encoder).__name__ == "CompactCLIPTextModel"
    assert isinstance(reloaded.unet, UNet2DConditionModel)
    assert torch.equal(image(reloaded), image(small_pipeline))


def test_portable_opens_without_memfast(
    small_pipeline: StableDiffusionPipeline,
    tmp_path: Path,
    one_thread: None,  # two processes share their bits where none of them shares out its sums
) -> None:
    save_as(small_pipeline, tmp_path / "out", "portable")
    unet, text, images = as_a_stranger(tmp_path / "out", tmp_path / "images.pt", trust=True)
    assert (unet, text) == ("CompactUNet2DConditionModel", "CompactCLIPTextModel")
    assert torch.equal(images, image(small_pipeline))
    with pytest.raises(RuntimeError, match="trust_remote_code"):
        as_a_stranger(tmp_path / "out", tmp_path / "images.pt", trust=False)


def test_masked_opens_everywhere(small_pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    save_as(small_pipeline, tmp_path / "out", "masked")
    assert type(small_pipeline.unet).__name__.startswith("Compact")  # the given one is left alone
    unet, text, images = as_a_stranger(tmp_path / "out", tmp_path / "images.pt", trust=False)
    assert (unet, text) == ("UNet2DConditionModel", "CLIPTextModel")
    torch.testing.assert_close(images, image(small_pipeline), atol=1e-5, rtol=0)


def test_plain_class_refuses_compact_weights(
    small_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    save_as(small_pipeline, tmp_path / "out", "compact")
    with pytest.raises(ValueError, match="expected shape"):
        UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")


@pytest.mark.parametrize("form", FORMATS)
def test_variants_and_shards(
    small_pipeline: StableDiffusionPipeline, form: str, tmp_path: Path
) -> None:
    small_pipeline.unet.half()
    save_as(small_pipeline, tmp_path / "out", form, variant="fp16", max_shard_size="100KB")
    shards = list((tmp_path / "out" / "unet").glob("*.fp16-*-of-*.safetensors"))
    assert len(shards) > 1
    how = {"variant": "fp16", "dtype": torch.float16, "trust_remote_code": form == "portable"}
    reloaded = DiffusionPipeline.from_pretrained(tmp_path / "out", **how)
    for name, value in small_pipeline.unet.state_dict().items():
        if form != "masked":
            assert torch.equal(reloaded.unet.state_dict()[name], value), name


def test_card_is_the_readme(small_pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    save_as(small_pipeline, tmp_path / "out", card="# Small\n")
    assert (tmp_path / "out" / "README.md").read_text() == "# Small\n"


def test_portable_config_names_its_class(
    small_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    save_as(small_pipeline, tmp_path / "out", "portable")
    config = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())
    assert config["auto_map"] == {"AutoModel": "memfast_compact.CompactUNet2DConditionModel"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_dense_equals_masked(name: str) -> None:
    model = tiny(name)
    subspace = random_subspace(model)
    smaller = compact(model, subspace, multiple_of=1, compensate="none")
    dense = to_dense(smaller)
    assert type(dense) is type(model)
    assert ffn_sites(dense) == ffn_sites(model)
    inputs = tiny_inputs(name, model)
    masked = output(prune(model, subspace), inputs)
    torch.testing.assert_close(output(dense, inputs), masked, atol=1e-5, rtol=0)


def test_masked_has_no_place_for_new_biases() -> None:
    model = tiny("Z-Image")
    with pytest.raises(InputError, match=r"no biases at .*least_squares"):
        to_dense(compact(model, random_subspace(model), compensate="mean"))


def test_unknown_format(small_pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compact, portable, masked, not 'onnx'"):
        save_as(small_pipeline, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


class Stranger(UNet2DConditionModel):
    """A subclass that diffusers does not know."""


def test_a_strangers_class_runs_but_keeps_its_name(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("SD 1.4")
    model.__class__ = Stranger
    smaller = compact(model, random_subspace(model))
    assert type(smaller) is Stranger
    assert "from_pretrained will not know" in caplog.text
    assert isinstance(smaller, nn.Module)


def test_portable_opens_with_memfast_and_runs_no_code(
    small_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    save_as(small_pipeline, folder, "portable")
    for part in ("unet", "text_encoder"):
        (folder / part / "memfast_compact.py").write_text("raise SystemExit('it was run')")
    reloaded = load_pipeline(folder)
    assert type(reloaded.unet).__name__ == "CompactUNet2DConditionModel"
    assert type(reloaded.text_encoder).__name__ == "CompactCLIPTextModel"
    assert torch.equal(image(reloaded), image(small_pipeline))
    assert fingerprint(reloaded.unet) == fingerprint(small_pipeline.unet)


OPEN = """
from memfast.pipelines.loading import load_pipeline
print(type(load_pipeline("someone/small").unet).__name__)
"""


def test_portable_from_the_hub_runs_no_code(
    small_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """Of a cache as the hub's library lays it out, without a network."""
    repository = tmp_path / "hub" / "models--someone--small"
    folder = repository / "snapshots" / ("0" * 40)
    save_as(small_pipeline, folder, "portable")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for part in ("unet", "text_encoder"):
        (folder / part / "memfast_compact.py").write_text("raise SystemExit('it was run')")
    how = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OPEN]
    opened = subprocess.run(
        command, env=os.environ | how, capture_output=True, text=True, check=True
    )
    assert opened.stdout.split() == ["CompactUNet2DConditionModel"]


def test_portable_variants_open_with_memfast(
    small_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    small_pipeline.unet.half()
    how = {"variant": "fp16", "max_shard_size": "100KB"}
    save_as(small_pipeline, tmp_path / "out", "portable", **how)
    reloaded = load_pipeline(tmp_path / "out", dtype=torch.float16)
    for name, value in small_pipeline.unet.state_dict().items():
        assert torch.equal(reloaded.unet.state_dict()[name], value), name


def test_a_portable_class_of_a_stranger_is_refused(
    small_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    save_as(small_pipeline, tmp_path / "out", "portable")
    path = tmp_path / "out" / "model_index.json"
    path.write_text(path.read_text().replace("CompactUNet2DConditionModel", "CompactNothing"))
    with pytest.raises(InputError, match="'CompactNothing' is no compact class of memfast"):
        load_pipeline(tmp_path / "out")
