"""The further models, in one table: what each differs in from the embedded one, and its seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import DiffusionPipeline

from memfast.demo.build.data.compose import SIZE
from memfast.demo.build.data.glyphs import Glyph
from memfast.demo.build.data.sets import Sets, build_sets
from memfast.demo.build.further import pipelines
from memfast.demo.build.nets.denoiser import Epochs


@dataclass(frozen=True)
class Recipe:
    """One model. seed: of its sets and its first weights. levels: duplicates of a memorized
    picture, an equal share of the captions each. size: pixels of a side. denoiser: how its config
    differs from the kind's own here. scheduler: how the noise path does."""

    kind: Callable[[Mapping[str, Any], Mapping[str, Any]], DiffusionPipeline]
    seed: int
    levels: tuple[int, ...]
    size: int = SIZE
    steps: int = 6_000
    batch: int = 96
    epoch: int = 75  # batches
    denoiser: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    def sets(self, glyphs: list[Glyph]) -> Sets:
        """Returns its sets."""
        return build_sets(glyphs, self.seed, self.levels, self.size)

    @property
    def epochs(self) -> Epochs:
        """How it goes through them: copying sets in where the stream is short."""
        return Epochs(self.batch, lambda _: self.epoch)

    def pipeline(self) -> DiffusionPipeline:
        """Returns the stock pipeline around an untrained denoiser."""
        return pipelines.seeded(self.seed, lambda: self.kind(self.denoiser, self.scheduler))


RECIPES: Mapping[str, Recipe] = {
    "soft": Recipe(
        pipelines.stable_diffusion,
        seed=1,
        levels=(10, 25, 75),
        denoiser={"transformer_layers_per_block": 2},
    ),
    "epsilon": Recipe(
        pipelines.stable_diffusion,
        seed=2,
        levels=(5, 20, 100),
        scheduler={
            "prediction_type": "epsilon",
            "beta_end": 0.012,
            "timestep_spacing": "leading",
        },
    ),
    "wide": Recipe(
        pipelines.stable_diffusion,
        seed=3,
        levels=(15, 40),
        size=2 * SIZE,
        denoiser={"sample_size": SIZE, "block_out_channels": (32, 64, 96), "layers_per_block": 2},
    ),
    "flow": Recipe(pipelines.stable_diffusion_3, seed=4, levels=(10, 30, 100)),
    "double": Recipe(pipelines.stable_diffusion_xl, seed=5, levels=(12, 30, 75)),
}
