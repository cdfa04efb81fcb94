"""What commands take of a GPU's memory, measured beside what `memfast plan` counted before.

    python benchmarks/memory.py --out memory.json [--models sd1,sdxl] [--commands collect,audit]

Each model has its stock config and random weights in bfloat16; each command runs once, from the
command line's own functions, on as many prompts as fill its default batch. On a CPU
(`--device cpu`) the models are tiny and only the counting is shown to run.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from on_gpu.bench import Bench, Row
from on_gpu.models import SD14, SDXL, SMALL, made_on
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from memfast import cli
from memfast.files import atomic_write_json
from memfast.pipelines.opening.naming import DEMO
from memfast.planning.parts import parts_of
from memfast.planning.plan import plan

STEPS = ["--num-inference-steps", "2"]
COMMANDS: dict[str, list[str]] = {
    "collect": ["--prompts", "{memorized}", "--steps", "1"],
    "audit": ["--prompts", "{memorized}", "--reference", "{reference}", "--walk-steps", "2"],
    "attack": [
        "--memorized", "{memorized}", "--reference", "{reference}", "--limit", "16",
        "--steps", "1", "--starts", "prompt", "--seeds", "1", "--metrics", "ssim",
    ],
    "locate": ["--reference", "{reference}", "--rule", "reference", "--fraction", "0.5"],
    "evaluate": [
        "--memorized", "{memorized}", "--reference", "{reference}", "--limit", "24",
        "--repeats", "1", "--seeds", "1", "--metrics", "ssim", "--methods", "none",
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("memory.json"))
    parser.add_argument("--models", default="sd1,sdxl")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    bench, rows = Bench(arguments.device), list[Row]()
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            for row in measured(name, Path(scratch), arguments.commands, bench):
                rows.append({"model": name, **row})
                print(json.dumps(rows[-1]), flush=True)
                atomic_write_json(arguments.out, {"card": bench.card(), "rows": rows})


def measured(name: str, folder: Path, commands: str, bench: Bench) -> Iterator[Row]:
    """A row for each command: seconds, gigabytes at most, and those that were counted before."""
    cuda, model = bench.cuda, folder / "model"
    side = save_pipeline(name, model, bench)
    lists = save_lists(folder, side)
    clear(cuda)
    memory = torch.cuda.mem_get_info()[0] if cuda else 10**10
    parts = parts_of(model)
    for command in commands.split(","):
        counted = plan(parts, command, torch.bfloat16, memory)
        out = folder / command
        words = [command, str(model), *(word.format(**lists) for word in COMMANDS[command])]
        words += [*STEPS, "--out", str(out), "--device", str(bench.device), "--dtype", "bfloat16"]
        start = time.perf_counter()
        code = run(words)
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if cuda else 0
        clear(cuda)
        yield {
            "command": command,
            "exit code": code,
            "seconds": round(seconds, 1),
            "counted GB": round(counted.bytes / 1e9, 2),
            "measured GB": round(peak / 1e9, 2),
            "measured over counted": round(peak / counted.bytes, 3),
        }


def run(words: list[str]) -> int:
    """The exit code of memfast's command line in this process."""
    sys.argv = ["memfast", *words]
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def clear(cuda: bool) -> None:
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def save_pipeline(name: str, folder: Path, bench: Bench) -> int:
    """Writes a pipeline of random weights; returns the side of its pictures in pixels."""
    xl, tiny = name == "sdxl", not bench.cuda
    tokenizer = CLIPTokenizer.from_pretrained(DEMO / "tokenizer", model_max_length=77)
    text = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12, projection_dim=768)  # fmt: skip
    second = dict(text, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                  num_attention_heads=20, projection_dim=1280)  # fmt: skip
    unet = SDXL if xl else SD14
    widths = (128, 256, 512, 512)
    if tiny:
        text |= dict(hidden_size=32, intermediate_size=64)
        text |= dict(num_hidden_layers=1, num_attention_heads=4)
        second, widths = dict(text, projection_dim=32), (8, 8, 8, 8)
        unet = SMALL | dict(cross_attention_dim=64 if xl else 32)
        if xl:
            unet |= dict(addition_embed_type="text_time", addition_time_embed_dim=8,
                         projection_class_embeddings_input_dim=6 * 8 + 32)  # fmt: skip
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with made_on(bench):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(
                block_out_channels=widths,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                norm_num_groups=8 if tiny else 32,
                force_upcast=xl,
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text, **ids)),
            "tokenizer": tokenizer,
            "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        }
        if xl:
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**second, **ids))
            parts["tokenizer_2"] = tokenizer
            pipeline: Any = StableDiffusionXLPipeline(**parts)
        else:
            pipeline = StableDiffusionPipeline(
                **parts,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    pipeline.save_pretrained(folder)
    return unet["sample_size"] * 8


def save_lists(folder: Path, side: int) -> dict[str, Path]:
    """Memorized and reference captions, each with a picture."""
    draw, paths = np.random.default_rng(0), {}
    for name, number in (("memorized", 64), ("reference", 64)):
        rows = []
        for i in range(number):
            picture = folder / f"{name}-{i}.png"
            Image.fromarray(draw.integers(0, 255, (side, side, 3), np.uint8)).save(picture)
            row = {"id": f"{name[0]}{i}", "prompt": f"{name} thing {i}"}
            rows.append(row | {"image": str(picture)})
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


if __name__ == "__main__":
    main()
