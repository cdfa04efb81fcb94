"""memfast's commands on Stable Diffusion 1.4's sizes with random weights."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import memfast
from memfast.auditing.looking.settings import Settings
from memfast.pipelines.identity import fingerprint
from memfast.prompts import PromptSet
from on_gpu.bench import Bench, Row
from on_gpu.models import SD14, SMALL, denoiser, made_on, told, told_of


def stable_diffusion(bench: Bench) -> StableDiffusionPipeline:
    """At SD1.4's sizes with random weights; a VAE of its shape alone, which nothing here uses."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    letters += [str(digit) for digit in range(10)]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    tokenizer = CLIPTokenizer(
        vocab={token: place for place, token in enumerate(tokens)}, merges=[], model_max_length=77
    )
    special = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    sizes = (12, 768, 3072, 12) if bench.cuda else (1, 32, 64, 4)
    text: Any = CLIPTextConfig(**dict(zip(names, sizes, strict=True)), **special)
    with made_on(bench):
        encoder = CLIPTextModel(text).eval()
        blocks = {"block_out_channels": (32,) * 4, "latent_channels": 4}
        blocks |= {"down_block_types": ("DownEncoderBlock2D",) * 4}
        vae = AutoencoderKL(**blocks, up_block_types=("UpDecoderBlock2D",) * 4).eval()
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=denoiser(bench, SD14 if bench.cuda else SMALL),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline.to(bench.device)


def best_rate(bench: Bench, model: Any) -> tuple[float, Row]:
    """The best rows a second of eager passes, and those of each batch."""
    config, found = SD14 if bench.cuda else SMALL, {}
    for rows in (2, 8, 32, 64) if bench.cuda else (2,):
        arguments = told(bench, config, rows)
        found[f"bare × {rows}"] = round(1e3 * rows / bench.ms(lambda a=arguments: model(**a)))
    return max(found.values()), found


class Clock:
    """When each part of the work was done: what lies between the first and the last is timed."""

    def __init__(self, bench: Bench):
        self.bench, self.times, self.done = bench, list[float](), list[int]()

    def __call__(self, done: int) -> None:
        self.bench.wait()
        self.times.append(time.perf_counter())
        self.done.append(done)

    def rate(self, rows: int) -> float:
        """Rows a second, of so many rows an item."""
        return rows * sum(self.done[1:]) / (self.times[-1] - self.times[0])


def prompts(count: int, word: str = "object") -> list[str]:
    return [f"a photo of {word} {number}" for number in range(count)]


@torch.no_grad()
def collecting(bench: Bench) -> Iterator[Row]:
    """`collect` at SD1.4's size with default settings against the best rate of its bare UNet."""
    pipeline = stable_diffusion(bench)
    before = time.perf_counter()
    fingerprint(pipeline.unet)
    yield {"what": "fingerprint", "seconds": round(time.perf_counter() - before, 2)}
    best, rates = best_rate(bench, pipeline.unet)
    yield {"what": "bare UNet, eager, rows/s", **rates, "rows/s": best}
    few: dict[str, Any] = {"steps": 5, "batch_size": 2}

    def check() -> None:
        ways = ({**few, "graphs": graphs} for graphs in (False, True))
        plain, again = (memfast.collect(pipeline, prompts(4), **how) for how in ways)
        for site in plain.sites:
            for name, tensor in vars(plain.moments[site]).items():
                if not torch.equal(getattr(again.moments[site], name), tensor):
                    raise ArithmeticError(f"{site}: {name} of replayed passes differs")

    yield {"what": "replayed passes", "bits": told_of(check)}
    ways: list[tuple[str, int, dict[str, Any]]] = [
        ("collect, defaults", 96, {}),
        ("collect, defaults, not replayed", 96, {"graphs": False}),
        ("collect, 1 prompt a batch", 8, {"batch_size": 1}),
        ("collect, 1 prompt a batch, not replayed", 8, {"batch_size": 1, "graphs": False}),
        ("collect, row-normalised", 96, {"row_normalised": True}),
    ]
    for what, count, how in ways:
        count = count if bench.cuda else 4
        how = how if bench.cuda else {"batch_size": 2, "steps": 4, **how}
        clock, before = Clock(bench), time.perf_counter()
        found = memfast.collect(pipeline, prompts(count), progress=clock, **how)
        rate = clock.rate(2 * found.steps)
        seconds = round(time.perf_counter() - before, 1)
        yield {"what": what, "rows/s": round(rate), "of the best": round(rate / best, 2),
               "in all, s": seconds, "left out": len(found.skipped)}  # fmt: skip


@torch.no_grad()
def auditing(bench: Bench) -> Iterator[Row]:
    """`audit` at SD1.4's size with default settings against the best rate of its bare UNet."""
    pipeline = stable_diffusion(bench)
    best, _ = best_rate(bench, pipeline.unet)
    with tempfile.TemporaryDirectory() as folder:

        def audited(name: str, count: int, references: int, **how: Any) -> dict[str, Any]:
            outcome = memfast.audit(
                pipeline,
                PromptSet.of(prompts(count)),
                Path(folder) / name,
                reference=PromptSet.of(prompts(references, "thing")),
                settings=Settings(**how),
            )
            if outcome is None:
                raise ArithmeticError("an audit of one shard was asked for")
            return outcome.summary | {"values": outcome.result.values}

        few = {"unit": 4, "block_size": 16}

        def check() -> None:
            plain = audited("plain", 16, 24, graphs=False, **few)
            again = audited("replayed", 16, 24, **few)
            if not (plain["values"] == again["values"]).all():
                raise ArithmeticError("replayed passes give other scores")

        yield {"what": "replayed passes", "scores": told_of(check)}
        ways: list[tuple[str, dict[str, Any]]] = [
            ("audit, defaults", {}),
            ("audit, not replayed", {"graphs": False}),
            ("audit, unit 8", {"unit": 8}),
            ("audit, unit 8, not replayed", {"unit": 8, "graphs": False}),
        ]
        for what, how in ways:
            before = time.perf_counter()
            summary = audited(what.replace(" ", ""), 384 if bench.cuda else 8, 24, **how)
            rate = summary["denoiser_rows_per_second"]
            seconds = round(time.perf_counter() - before, 1)
            yield {"what": what, "rows/s": round(rate), "of the best": round(rate / best, 2),
                   "in all, s": seconds}  # fmt: skip
