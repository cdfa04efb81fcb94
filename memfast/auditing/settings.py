"""What decides an audit's figures, and nothing else: equal settings give equal bits."""

from dataclasses import asdict, dataclass
from typing import Any

from memfast.errors import InputError


@dataclass(frozen=True)
class Settings:
    """The settings that a block's result depends on.

    probe: an entry of PROBES. noises: how many noises each prompt is looked at with, the same for
    all prompts. middle: the noise level that `settle` and `jump` go to, as a share of the training
    timesteps. walk_steps, num_inference_steps and guidance_scale: the schedule of `walk`.
    unit: prompts of one call of the denoiser. Every call has exactly that many rows, the last one
    padded, because kernels choose their order of summation by shape.
    threads: CPU threads, for the same reason; 0 stands for as many as torch uses.
    """

    probe: str
    noises: int = 1
    seed: int = 0
    middle: float = 0.5
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
        if not 0 < self.middle < 1:
            raise InputError(f"middle: must lie between 0 and 1, got {self.middle}")
        if self.walk_steps > self.num_inference_steps:
            raise InputError(
                f"walk_steps: {self.walk_steps} of {self.num_inference_steps} inference steps"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
