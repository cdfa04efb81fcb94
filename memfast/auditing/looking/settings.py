"""What decides an audit's figures, and nothing else: equal settings give equal bits."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from memfast.errors import InputError


@dataclass(frozen=True)
class Settings:
    """The settings that a block's result depends on.

    probe: an entry of PROBES. noises: how many noises each prompt is looked at with, the same for
    all prompts. path: the noise levels that `settle` and `jump` go to from pure noise, falling
    shares of the training timesteps. walk_steps, num_inference_steps and guidance_scale: the
    schedule of `walk`.
    unit: prompts of one call of the denoiser. Every call has exactly that many rows, the last one
    padded, because kernels choose their order of summation by shape.
    threads: CPU threads, for the same reason; 0 stands for as many as torch uses.
    """

    probe: str = "jump"
    noises: int = 1
    seed: int = 0
    path: tuple[float, ...] = (0.05,)
    walk_steps: int = 7
    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    block_size: int = 256
    unit: int = 8
    threads: int = 0
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("noises", "walk_steps", "num_inference_steps", "block_size", "unit"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        levels = (1.0, *self.path, 0.0)
        if not self.path or any(b >= a for a, b in pairwise(levels)):
            raise InputError(f"path: needs falling noise levels between 1 and 0, got {self.path}")
        if self.walk_steps > self.num_inference_steps:
            raise InputError(
                f"walk_steps: {self.walk_steps} of {self.num_inference_steps} inference steps"
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return asdict(self) | {"path": list(self.path)}
