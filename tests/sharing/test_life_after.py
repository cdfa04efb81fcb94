"""What diffusers does to models, done to a tiny compact one: docs/compact.md lists each."""

import copy
import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoModel,
    AutoPipelineForImage2Image,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn

import memfast
from memfast import InputError, compact, ffn_sites
from memfast.blocks.families.examples import tiny, tiny_inputs
from tests.support.models import THIRD_PARTY, output, random_subspace

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]
CPU = torch.device("cpu")


def needs(package: str) -> Any:
    root = package.partition(".")[0]  # looking for a child of what is missing would raise
    missing = importlib.util.find_spec(root) is None or importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


def small(name: str = "SD 1.4") -> nn.Module:
    model = tiny(name)
    return compact(model, random_subspace(model), multiple_of=1)


@pytest.fixture
def unet() -> Any:
    return small()


@pytest.fixture
def inputs(unet: Any) -> dict[str, Any]:
    return tiny_inputs("SD 1.4", unet)


def test_class(unet: Any) -> None:
    assert isinstance(unet, UNet2DConditionModel)
    assert type(unet) is memfast.CompactUNet2DConditionModel
    assert (type(unet).__module__, type(unet).__name__) == (
        "memfast",
        "CompactUNet2DConditionModel",
    )


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(unet: Any, inputs: dict[str, Any], make: Callable[[Any], Any]) -> None:
    other = make(unet)
    assert type(other) is type(unet)
    assert torch.equal(output(other, inputs), output(unet, inputs))


def test_the_class_without_widths_is_its_base() -> None:
    arguments = {k: v for k, v in tiny("SD 1.4").config.items() if not k.startswith("_")}
    plain = memfast.CompactUNet2DConditionModel(**arguments)
    assert ffn_sites(plain) == ffn_sites(tiny("SD 1.4"))


def test_from_config_has_the_widths(unet: Any) -> None:
    fresh = type(unet).from_config(unet.config)
    assert ffn_sites(fresh) == ffn_sites(unet)
    assert fresh.state_dict().keys() == unet.state_dict().keys()


@pytest.mark.parametrize(("path", "neurons"), [("nowhere", 4), (None, 0), (None, 129)])
def test_configs_that_cannot_be(unet: Any, path: str | None, neurons: int) -> None:
    dims = {path or next(iter(ffn_sites(unet))): neurons}
    with pytest.raises(InputError, match=r"ffn_inner_dims: .* cannot have"):
        type(unet).from_config({**unet.config, "ffn_inner_dims": dims})


@pytest.mark.parametrize("how", [{}, {"low_cpu_mem_usage": False}, {"device_map": "cpu"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_loading(
    unet: Any, inputs: dict[str, Any], tmp_path: Path, dtype: torch.dtype, how: dict[str, Any]
) -> None:
    unet.save_pretrained(tmp_path, max_shard_size="60KB")
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").is_file()
    loaded = type(unet).from_pretrained(tmp_path, torch_dtype=dtype, **how)
    assert loaded.dtype == dtype
    if dtype == torch.float32:
        assert torch.equal(output(loaded, inputs), output(unet, inputs))
    kept = loaded.mid_block.attentions[0].transformer_blocks[0].ff.kept_neurons
    assert kept.dtype == torch.int32


def test_auto_model_and_single_file(tiny_pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    tiny_pipeline.unet = compact(tiny_pipeline.unet, random_subspace(tiny_pipeline.unet))
    tiny_pipeline.save_pretrained(tmp_path)
    automatic = AutoModel.from_pretrained(str(tmp_path), subfolder="unet")
    assert type(automatic) is type(tiny_pipeline.unet)
    single = type(tiny_pipeline.unet).from_single_file(
        str(tmp_path / "unet" / "diffusion_pytorch_model.safetensors"),
        config=str(tmp_path),
        subfolder="unet",
    )
    for name, value in tiny_pipeline.unet.state_dict().items():
        assert torch.equal(single.state_dict()[name], value)
        assert torch.equal(automatic.state_dict()[name], value)


def test_from_pipe(tiny_pipeline: StableDiffusionPipeline) -> None:
    tiny_pipeline.unet = compact(tiny_pipeline.unet, random_subspace(tiny_pipeline.unet))
    other = AutoPipelineForImage2Image.from_pipe(tiny_pipeline)
    assert isinstance(other, StableDiffusionImg2ImgPipeline)
    assert other.unet is tiny_pipeline.unet


def test_training_with_gradient_checkpointing(unet: Any, inputs: dict[str, Any]) -> None:
    gradients = []
    for checkpoint in (False, True):
        unet.train()
        unet.zero_grad()
        if checkpoint:
            unet.enable_gradient_checkpointing()
        unet(**inputs).sample.square().mean().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in unet.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() == dict(unet.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.set_default_attn_processor(),
        lambda m: m.fuse_qkv_projections(),
        lambda m: m.set_attention_slice("auto"),
        lambda m: m.enable_freeu(1.0, 1.0, 1.0, 1.0),
        lambda m: m.to(memory_format=torch.channels_last),
    ],
    ids=["processors", "fused qkv", "slicing", "freeu", "channels last"],
)
def test_switches(unet: Any, inputs: dict[str, Any], change: Callable[[Any], Any]) -> None:
    before = output(unet, inputs)
    change(unet)
    tolerance = 1e-5 if change.__code__.co_names[0] != "enable_freeu" else 1e-3
    torch.testing.assert_close(output(unet, inputs), before, atol=tolerance, rtol=tolerance)


def test_layerwise_casting(unet: Any, inputs: dict[str, Any]) -> None:
    before = output(unet, inputs)
    unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    torch.testing.assert_close(output(unet, inputs), before, atol=0.05, rtol=0.05)
    with pytest.raises(InputError):
        compact(quantized_stand_in(), random_subspace(tiny("SD 1.4")))


def quantized_stand_in() -> nn.Module:
    """A model whose feed-forward linears are no plain linears any more."""

    class Packed(nn.Linear):
        pass

    model = tiny("SD 1.4")
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Packed
            module.weight = nn.Parameter(module.weight.detach().to(torch.int8), requires_grad=False)
    return model


@needs("accelerate")
def test_group_offload(unet: Any, inputs: dict[str, Any]) -> None:
    before = output(unet, inputs)
    unet.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )
    assert torch.equal(output(unet, inputs), before)


@needs("accelerate")
def test_sequential_offload(unet: Any, inputs: dict[str, Any]) -> None:
    from accelerate import cpu_offload

    before = output(unet, inputs)
    subspace = random_subspace(unet)
    cpu_offload(unet, execution_device=CPU)
    assert torch.equal(output(unet, inputs), before)
    with pytest.raises(InputError, match="compact before offloading"):
        compact(unet, subspace)


def test_a_compiled_model_is_compacted_as_what_it_wraps() -> None:
    torch._dynamo.reset()
    model = tiny("SD 1.4")
    compiled = torch.compile(model, backend="eager")
    assert ffn_sites(compiled) == ffn_sites(model)
    smaller = compact(compiled, random_subspace(model))
    assert type(smaller) is memfast.CompactUNet2DConditionModel


def test_diffusers_is_told_of_the_compact_classes() -> None:
    code = "import diffusers.pipelines.pipeline_loading_utils as utils, memfast\n"
    code += "assert utils.LOADABLE_CLASSES['memfast'].keys() == {'ModelMixin', 'PreTrainedModel'}\n"
    code += "index = {'unet': ['memfast', 'CompactUNet2DConditionModel']}\n"
    code += "utils._get_custom_components_and_folders('some/where', index, [])"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "regional"])
def test_compile(whole: bool) -> None:
    torch._dynamo.reset()
    model: Any = tiny("SDXL")
    model = compact(model, random_subspace(model), multiple_of=1, buckets=4)
    arguments = tiny_inputs("SDXL", model)
    before = output(model, arguments)
    if whole:
        model = torch.compile(model, fullgraph=True, backend="aot_eager")
    else:
        model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(output(model, arguments), before, atol=1e-5, rtol=1e-5)


class Plain(nn.Module):
    """Tensors in, tensor out, as exporters want it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.model(sample, timestep, encoder_hidden_states, return_dict=False)[0]


def test_export(unet: Any, inputs: dict[str, Any]) -> None:
    program = torch.export.export(Plain(unet), tuple(inputs.values()))
    exported = program.module()(*inputs.values())
    torch.testing.assert_close(exported, output(unet, inputs), atol=1e-5, rtol=1e-5)


@needs("onnxruntime")
@needs("onnxscript")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_onnx(unet: Any, inputs: dict[str, Any], tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "unet.onnx"
    torch.onnx.export(Plain(unet), tuple(inputs.values()), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    feed = {n: v.numpy() for n, v in zip(names, inputs.values(), strict=True)}
    (result,) = session.run(None, feed)
    torch.testing.assert_close(torch.from_numpy(result), output(unet, inputs), atol=1e-4, rtol=1e-4)


@needs("torchao")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchao(unet: Any, inputs: dict[str, Any]) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    before = output(unet, inputs)
    quantize_(unet, Int8WeightOnlyConfig())
    after = output(unet, inputs)
    assert 0 < float((after - before).abs().max()) < 0.1
    with pytest.raises(InputError, match="compact first, then quantize"):
        compact(unet, random_subspace(unet))


@needs("optimum.quanto")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quanto(unet: Any, inputs: dict[str, Any]) -> None:
    from optimum.quanto import freeze, qint8, quantize

    before = output(unet, inputs)
    quantize(unet, weights=qint8)
    freeze(unet)
    after = output(unet, inputs)
    assert 0 < float((after - before).abs().max()) < 0.1
    with pytest.raises(InputError, match="compact first, then quantize"):
        compact(unet, random_subspace(unet))


def test_compact_of_a_compact_model(unet: Any, inputs: dict[str, Any], tmp_path: Path) -> None:
    again = compact(unet, random_subspace(unet, seed=9), multiple_of=1)
    assert type(again) is type(unet)
    base = tiny("SD 1.4")
    for path in ffn_sites(again):
        kept = again.get_submodule(path).kept_neurons.long()
        row = again.get_submodule(path).net[0].proj.weight[: len(kept)]
        assert torch.equal(row, base.get_submodule(path).net[0].proj.weight[kept])
    again.save_pretrained(tmp_path)
    reloaded = type(again).from_pretrained(tmp_path)
    assert torch.equal(output(reloaded, inputs), output(again, inputs))


def test_push_to_hub_folder_reloads_by_shape_of_index(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    tiny_pipeline.unet = compact(tiny_pipeline.unet, random_subspace(tiny_pipeline.unet))
    tiny_pipeline.save_pretrained(tmp_path)
    config = DiffusionPipeline.load_config(tmp_path)
    assert config["unet"] == ["memfast", "CompactUNet2DConditionModel"]
