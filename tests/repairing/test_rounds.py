"""The loop of attack, removal and repair; what a step costs; the command."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

import memfast
from memfast.attacks.embeddings import AttackSettings
from memfast.errors import InputError
from memfast.prompts import Prompt, PromptSet
from memfast.repairing.cost import cost_of_step
from memfast.repairing.rounds import Round, repair_in_rounds
from memfast.repairing.settings import RepairSettings

SCHEDULE = {"num_inference_steps": 2, "guidance_scale": 1.5}
REFERENCE = ["red b", "blue c", "c", "dog on red", "cat on blue", "b background", "a b", "red c"]
QUICK = RepairSettings(steps=1, batch=2, stride=1, draws=1, controls=1)


@pytest.fixture
def memorized(tmp_path) -> PromptSet:
    """Two captions with training images."""
    prompts = []
    for k, text in enumerate(("a cat", "b dog")):
        path = tmp_path / f"{k}.png"
        Image.new("RGB", (16, 16), (250, 120 * k, 10)).save(path)
        prompts.append(Prompt(f"m{k}", text, str(path)))
    return PromptSet.of(prompts)


def rounds(pipeline, memorized, **how):
    how = {"rounds": 2, "max_damage": 1.05, "starts": ("noise",), **how, **SCHEDULE}
    attack = AttackSettings((1,), draws=1)
    reference = PromptSet.of(REFERENCE)
    return repair_in_rounds(
        pipeline, pipeline, reference, memorized, settings=QUICK, attack=attack, **how
    )


def test_an_attack_that_fails_ends_the_rounds(tiny_pipeline, memorized) -> None:
    result, found, _ = rounds(tiny_pipeline, memorized)
    assert len(found) == 1  # an untrained model replicates nothing
    assert found[0].met
    assert found[0].damage == 1
    assert result is tiny_pipeline


def test_rounds_remove_and_repair(tiny_pipeline, memorized, monkeypatch) -> None:
    monkeypatch.setattr(Round, "met", False)
    result, found, _ = rounds(tiny_pipeline, memorized, rounds=1)
    assert len(found) == 2
    assert found[0].neurons == sum(memfast.ffn_sites(tiny_pipeline.unet).values())
    assert found[1].neurons == sum(memfast.ffn_sites(result.unet).values()) < found[0].neurons
    assert tiny_pipeline.unet is not result.unet
    json.dumps([each.as_dict() for each in found])


def test_rounds_need_images(tiny_pipeline) -> None:
    with pytest.raises(InputError, match="each with its image"):
        rounds(tiny_pipeline, PromptSet.of(["a cat", "b dog"]))


def test_cost_is_counted_on_the_meta_device(tiny_pipeline) -> None:
    with torch.device("meta"):
        model = type(tiny_pipeline.unet).from_config(tiny_pipeline.unet.config)
        inputs = {
            "sample": torch.empty(1, 4, 8, 8),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, 12, 32),
        }
    cost = cost_of_step(model, inputs, rows=8, attacked=6)
    weights = sum(p.numel() for p in model.parameters()) * 4
    assert cost.weights_bytes == 2 * weights
    assert cost.optimiser_bytes == 3 * weights
    assert cost.bytes == 5 * weights + cost.activations_bytes
    more = cost_of_step(model, inputs, rows=16, attacked=6)
    assert more.activations_bytes == 2 * cost.activations_bytes
    one = (more.flops - cost.flops) / 32  # a row: three passes of one model, one of the other
    assert cost.flops == 32 * one + 18 * one
    assert cost.activations_bytes > 8 * 64 * 32 * 4  # at least one feature map an image
    assert (
        cost_of_step(model, inputs, rows=8, attacked=6, checkpointing=True).activations_bytes
        < cost.activations_bytes
    )


def test_command(tiny_folder, memorized, tmp_path) -> None:
    from memfast.cli.app import app

    lists = {}
    for name, rows in (
        ("reference", [{"prompt": text} for text in REFERENCE]),
        ("memorized", [{"prompt": p.text, "image": p.image} for p in memorized]),
    ):
        lists[name] = tmp_path / f"{name}.jsonl"
        lists[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    words = ["repair", str(tiny_folder), "--original", str(tiny_folder), "--out", str(out)]
    words += ["--reference", str(lists["reference"]), "--memorized", str(lists["memorized"])]
    words += ["--steps", "1", "--batch-size", "2", "--num-inference-steps", "2"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["history"][0].keys() == {
        "step",
        "reference",
        "surrogate",
        "adversarial",
        "scattered",
    }
    assert summary["damage_before"] == 1
    DiffusionPipeline.from_pretrained(out)
    assert not list(tmp_path.glob("*.repair*.safetensors"))
    with pytest.raises(InputError, match="not empty"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    with pytest.raises(InputError, match="--rounds: needs --memorized"):
        CliRunner().invoke(
            app, [*words[:8], "--out", str(tmp_path / "x"), "--rounds", "1"], catch_exceptions=False
        )
