"""One training, a block of steps at a time; on CUDA a step is one graph of kernels.

What a step needs is on the device before its block begins: latents, noise, times, captions, rates.
So a step asks nothing of the host, and several trainings share a device well, each on a stream of
its own. A block depends on its steps alone: an interrupted run goes on as if it had not been.
"""

import copy
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from memfast.demo.build.data.glyphs import Glyph
from memfast.demo.build.data.sets import Sets
from memfast.demo.build.further.recipes import Recipe
from memfast.demo.build.nets.denoiser import PEAK, Epochs
from memfast.demo.build.nets.training import plateau, save_atomically
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.table import driver_of

BLOCK = 50  # steps
SAVE_EVERY = 3000  # steps
DECAY = 0.998  # of the average of the weights
EAGER = 3  # steps before a graph is captured: what is made lazily is made then


class Blocks(Dataset):
    """Item `start`: pictures uint8 [steps * batch, size, size, 3], captions [steps, batch] by
    number, 0 the empty one."""

    def __init__(self, sets: Sets, epochs: Epochs, captions: list[str], steps: int) -> None:
        self.sets, self.epochs, self.steps = sets, epochs, steps
        self.numbers = {caption: i for i, caption in enumerate(["", *captions])}

    def __getitem__(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        steps = range(start, min(start + BLOCK, self.steps))
        rows = [self.epochs.batch_of(self.sets, step) for step in steps]
        numbers = [[self.numbers[caption] for caption in captions] for captions, _ in rows]
        return np.stack([x for _, images in rows for x in images]), np.array(numbers)


def as_it_is(item: Any) -> Any:
    """Arrays stay arrays: tensors would need shared memory, of which containers have little."""
    return item


class Training:
    """A recipe's training on a device. `step` steps are done (or queued on the device); `average`
    is the moving average of the weights, in `driver`'s place of the denoiser when it is finished.

    Raises FloatingPointError when the loss is not finite; the last checkpoint stays.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        glyphs: list[Glyph],
        work: Path,
        device: torch.device,
        *,
        steps: int | None = None,
        workers: int = 1,
    ) -> None:
        self.name, self.recipe, self.device = name, recipe, device
        self.steps = self.planned = steps or recipe.steps
        self.sets, self.checkpoint = recipe.sets(glyphs), work / f"{name}.pt"
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        self.driver: Any = driver_of(recipe.pipeline().to(device))
        if hasattr(self.driver.path, "products"):  # no copy to the device within a step
            self.driver.path.products = self.driver.path.products.to(device)
        self.driver.pipeline.vae.requires_grad_(False)
        self.captions = sorted({x.prompt for x in self.sets.trained} | {*self.sets.fresh_captions})
        with self.on_stream():
            told = self.driver.encode_all(self.captions)
            self.told = Conditioning.cat([self.driver.no_prompt, told])
        self.model = self.driver.model.train().requires_grad_(True)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.weights, self.followers = [*self.model.parameters()], [*self.average.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=torch.tensor(PEAK, device=device),
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
            capturable=device.type == "cuda",
        )
        self.step, self.seconds, self.pace = 0, 0.0, 0.0
        self.resume()
        self.buffers = self.empty_buffers()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.capturing = device.type == "cuda"
        self.waiting: deque[tuple[int, int, Tensor, Any]] = deque()
        self.source = self.blocks(workers)
        if self.stream:
            torch.cuda.synchronize()
        self.last = perf_counter()

    def on_stream(self) -> AbstractContextManager[Any]:
        """Within the context work is queued on the training's own stream."""
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def blocks(self, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The blocks that are left, made by worker processes."""
        data = Blocks(self.sets, self.recipe.epochs, self.captions, self.steps)
        order = range(self.step, self.steps, BLOCK)
        return iter(
            DataLoader(
                data, batch_size=None, sampler=order, num_workers=workers, collate_fn=as_it_is
            )
        )

    def empty_buffers(self) -> dict[str, Tensor]:
        """What the steps of a block read and write."""
        batch = self.recipe.batch
        latents = (BLOCK, batch, *self.driver.latent_shape)
        times = self.driver.path.at_share(torch.zeros(1)).dtype
        make = {"device": self.device}
        return {
            "clean": torch.zeros(latents, **make),
            "noise": torch.zeros(latents, **make),
            "times": torch.zeros(BLOCK, batch, dtype=times, **make),
            "captions": torch.zeros(BLOCK, batch, dtype=torch.long, **make),
            "rates": torch.zeros(BLOCK, **make),
            "lags": torch.zeros(BLOCK, **make),
            "losses": torch.zeros(BLOCK, **make),
            "at": torch.zeros(1, dtype=torch.long, **make),
        }

    # ------------------------------------------------------------------ a step

    def one_step(self) -> None:
        """The step that the buffer `at` points to."""
        held, at = self.buffers, self.buffers["at"]

        def of_step(name: str) -> Tensor:
            return held[name].index_select(0, at)[0]

        self.optimizer.zero_grad(set_to_none=True)
        told = self.told[of_step("captions")]
        loss = self.driver.loss(of_step("clean"), told, of_step("noise"), of_step("times")).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        with torch.no_grad():
            self.optimizer.param_groups[0]["lr"].copy_(of_step("rates"))
            self.optimizer.step()
            gaps = torch._foreach_sub(self.weights, self.followers)
            torch._foreach_mul_(gaps, of_step("lags"))
            torch._foreach_add_(self.followers, gaps)
            held["losses"].index_copy_(0, at, loss.detach()[None])
            at.add_(1)

    def capture(self) -> None:
        """Makes a graph of a step, where that works; else steps stay as they are."""
        self.capturing, graph = False, torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.one_step()
        except Exception as error:
            print(f"{self.name}: no graph, slower steps: {error!r}", file=sys.stderr, flush=True)
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
        else:
            self.graph = graph

    # ------------------------------------------------------------------ a block

    def advance(self, until: float | None = None) -> None:
        """Queues the next block; waits for the one before. until: `perf_counter` at the end."""
        pictures, captions = next(self.source)
        self.plan(until)
        start, steps = self.step, len(captions)
        with self.on_stream():
            self.fill(start, pictures, captions)
            for i in range(steps):
                if self.capturing and i == EAGER:
                    self.capture()
                if self.graph is not None:
                    self.graph.replay()
                else:
                    self.one_step()
            losses = self.buffers["losses"][:steps].mean()
            event = None
            if self.stream:
                losses = losses.to("cpu", non_blocking=True)
                event = torch.cuda.Event()
                event.record(self.stream)
        self.step += steps
        self.waiting.append((steps, self.step, losses, event))
        while len(self.waiting) > (1 if self.stream else 0):
            self.settle()
        if self.step % SAVE_EVERY == 0 and not self.finished:
            self.save()

    def plan(self, until: float | None) -> None:
        """Plans as many steps as the time allows, the falling end of the rate within."""
        if until is not None and self.pace:
            left = max(0.0, until - perf_counter())
            self.planned = min(self.steps, self.step + max(1, int(left / self.pace)))

    def fill(self, start: int, pictures: np.ndarray, captions: np.ndarray) -> None:
        """Puts what a block needs into the buffers."""
        steps, batch = captions.shape
        source = torch.Generator(self.device).manual_seed(start)
        images = self.moved(torch.from_numpy(pictures)).permute(0, 3, 1, 2).float() / 255
        clean = self.driver.encode_images(images)
        shares = torch.rand(steps, batch, generator=source, device=self.device)
        shares = (torch.arange(batch, device=self.device) + shares) / batch
        rate = plateau(self.planned, PEAK)
        numbers = range(start, start + steps)
        block = {
            "clean": clean.unflatten(0, (steps, batch)),
            "noise": torch.randn(
                steps, *self.buffers["noise"].shape[1:], generator=source, device=self.device
            ),
            "times": self.driver.path.at_share(shares.flatten()).view_as(shares),
            "captions": self.moved(torch.from_numpy(captions)),
            "rates": self.moved(torch.tensor([rate(i) for i in numbers])),
            "lags": self.moved(torch.tensor([1 - min(DECAY, (1 + i) / (10 + i)) for i in numbers])),
        }
        for name, values in block.items():
            self.buffers[name][:steps].copy_(values)
        self.buffers["at"].zero_()

    def moved(self, values: Tensor) -> Tensor:
        """The values on the device, without waiting for what is queued there."""
        return values.pin_memory().to(self.device, non_blocking=True) if self.stream else values

    def settle(self) -> None:
        """Waits for the oldest queued block, and says how it went."""
        steps, done, losses, event = self.waiting.popleft()
        if event is not None:
            event.synchronize()
        value, now = float(losses), perf_counter()
        passed, self.last = now - self.last, now
        self.seconds += passed
        self.pace += (passed / steps - self.pace) * (0.3 if self.pace else 1.0)
        if not np.isfinite(value):
            raise FloatingPointError(f"{self.name}: loss is {value} before step {done}")
        if done % (2 * BLOCK) == 0 or done >= self.planned:
            print(
                f"{self.name} {done}/{self.planned} loss {value:.4f} {self.pace:.4f} s/step",
                flush=True,
            )

    # ------------------------------------------------------------------ the end

    @property
    def finished(self) -> bool:
        """Whether the planned steps are done."""
        return self.step >= self.planned

    def finish(self) -> nn.Module:
        """Waits for what is queued; the average of the weights, as float16 holds it."""
        while self.waiting:
            self.settle()
        del self.source, self.graph
        return self.average.half().float()

    def save(self) -> None:
        """Writes a checkpoint."""
        while self.waiting:
            self.settle()
        state = {
            "module": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_atomically(state, self.checkpoint)

    def resume(self) -> None:
        """Goes on from the checkpoint, where there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
