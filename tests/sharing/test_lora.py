"""LoRAs of the base on a compact model, against the masked model that takes them whole."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from memfast import InputError, compact, load_lora, prune, slice_lora
from memfast.blocks.families.examples import tiny, tiny_inputs
from memfast.sharing.lora import fold_alphas
from tests.support.models import THIRD_PARTY, output, random_subspace

pytestmark = [pytest.mark.filterwarnings(w) for w in THIRD_PARTY]
TARGETS = {
    "SD 1.4": ["to_q", "to_out.0", "ff.net.0.proj", "ff.net.2"],
    "Flux.1": ["to_q", "proj_mlp", "proj_out", "net.2"],
    "Flux.2": ["to_qkv_mlp_proj", "linear_in", "linear_out"],
    "Z-Image": ["to_q", "w1", "w2", "w3"],
    "Sana 1.6B": ["to_q", "conv_inverted", "conv_point"],
}


def lora_of(name: str, *, dora: bool = False) -> dict[str, Tensor]:
    """A random LoRA of the tiny base, in PEFT's keys."""
    model = tiny(name)
    model.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS[name], use_dora=dora))
    torch.manual_seed(5)
    state = get_peft_model_state_dict(model)
    return {key: value + 0.1 * torch.randn_like(value) for key, value in state.items()}


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", TARGETS)
def test_a_sliced_lora_equals_the_whole_one_on_the_masked_model(name: str, dora: bool) -> None:
    base = tiny(name)
    subspace = random_subspace(base, 0.3)
    smaller = compact(base, subspace, multiple_of=1, compensate="none")
    masked = prune(base, subspace)
    weights = lora_of(name, dora=dora)
    sliced = slice_lora(weights, smaller)
    plain = output(smaller, inputs := tiny_inputs(name, base))
    smaller.load_lora_adapter(sliced, prefix=None)
    masked.load_lora_adapter(without(weights, subspace.neurons), prefix=None)
    adapted = output(smaller, inputs)
    if not dora:  # DoRA's norms see the columns that the masked model only zeroed
        torch.testing.assert_close(adapted, output(masked, inputs), atol=2e-5, rtol=0)
    assert not torch.allclose(adapted, plain, atol=1e-3)

    smaller.fuse_lora()
    torch.testing.assert_close(output(smaller, inputs), adapted, atol=2e-5, rtol=0)
    smaller.unfuse_lora()
    smaller.unload_lora()
    torch.testing.assert_close(output(smaller, inputs), plain, atol=1e-5, rtol=0)


def without(weights: dict[str, Tensor], removed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA with nothing flowing out of removed neurons: its lower factor's columns zeroed."""
    result = dict(weights)
    for path, mask in removed.items():
        for key, value in weights.items():
            if key.startswith(path + ".") and ".lora_A." in key:
                inputs = value.shape[1]
                last = key.removeprefix(path + ".").split(".lora_A")[0]
                if last in ("net.2", "proj_out", "linear_out", "to_out", "w2", "conv_point"):
                    result[key] = value.clone()
                    result[key][:, inputs - len(mask) :][:, mask] = 0
    return result


def test_a_pipeline_loads_a_file(tiny_pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    unet = tiny_pipeline.unet
    unet.add_adapter(
        LoraConfig(
            r=2, target_modules=["to_q", "ff.net.0.proj", "ff.net.2"], init_lora_weights=False
        )
    )
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(unet)
    )
    unet.unload_lora()
    tiny_pipeline.unet = compact(unet, random_subspace(unet))
    with pytest.raises(RuntimeError, match="size mismatch"):
        tiny_pipeline.load_lora_weights(tmp_path)
    tiny_pipeline.unload_lora_weights()
    load_lora(tiny_pipeline, tmp_path, adapter_name="style")
    assert tiny_pipeline.get_active_adapters() == ["style"]
    tiny_pipeline.set_adapters("style", 0.5)
    tiny_pipeline.fuse_lora()
    tiny_pipeline.unfuse_lora()
    tiny_pipeline.unload_lora_weights()


def test_alphas_are_folded_into_the_upper_factor() -> None:
    weights = {"a.lora_A.weight": torch.ones(4, 6), "a.lora_B.weight": torch.ones(5, 4)}
    folded = fold_alphas(weights, {"a.alpha": 2.0})
    assert torch.equal(folded["a.lora_B.weight"], torch.full((5, 4), 0.5))
    assert torch.equal(folded["a.lora_A.weight"], weights["a.lora_A.weight"])


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", TARGETS)
def test_a_lora_of_the_compact_model_is_taken_as_it_is(name: str, dora: bool) -> None:
    base = tiny(name)
    smaller = compact(base, random_subspace(base, 0.3), multiple_of=1)
    settings = LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS[name], use_dora=dora)
    smaller.add_adapter(settings)
    weights = get_peft_model_state_dict(smaller)
    smaller.unload_lora()
    sliced = slice_lora(weights, smaller)
    assert all(torch.equal(sliced[key], value) for key, value in weights.items())
    empty = type(smaller).from_config(smaller.config)
    assert slice_lora(weights, empty).keys() == weights.keys()


def test_a_pipeline_loads_what_was_trained_on_itself(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    tiny_pipeline.unet = unet = compact(tiny_pipeline.unet, random_subspace(tiny_pipeline.unet))
    inputs = tiny_inputs("SD 1.4", unet)
    targets = ["to_q", "ff.net.0.proj", "ff.net.2"]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    trained = output(unet, inputs)
    layers = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "own", unet_lora_layers=layers)
    unet.unload_lora()
    assert not torch.allclose(output(unet, inputs), trained, atol=1e-3)
    load_lora(tiny_pipeline, tmp_path / "own")
    torch.testing.assert_close(output(unet, inputs), trained, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match=r"LoRA .*onw: no such file or folder \(there is own\)"):
        load_lora(tiny_pipeline, tmp_path / "onw")


def test_a_lora_of_a_smaller_base_is_refused() -> None:
    base = tiny("Z-Image")
    smaller = compact(base, random_subspace(base, 0.1))
    weights = {"layers.0.feed_forward.w2.lora_A.weight": torch.ones(2, 9)}
    with pytest.raises(InputError, match=r"w2\.lora_A\.weight has 9 neurons"):
        slice_lora(weights, smaller)


def test_a_model_from_a_config_alone_does_not_know_its_neurons() -> None:
    base = tiny("Z-Image")
    smaller = compact(base, random_subspace(base, 0.1))
    empty = type(smaller).from_config(smaller.config)
    with pytest.raises(InputError, match="which neurons it kept is unknown"):
        slice_lora(lora_of("Z-Image"), empty)


def test_another_kind_of_adapter_is_refused() -> None:
    base = tiny("Z-Image")
    smaller = compact(base, random_subspace(base, 0.1))
    weights = {"layers.0.feed_forward.w2.hada_w1_a": torch.ones(2, 9)}
    with pytest.raises(InputError, match="another kind"):
        slice_lora(weights, smaller)


def test_adapters_must_be_fused_before_compacting() -> None:
    base = tiny("SD 1.4")
    subspace = random_subspace(base)
    base.add_adapter(LoraConfig(r=2, target_modules=["ff.net.2"]))
    with pytest.raises(InputError, match="fuse and unload"):
        compact(base, subspace)
