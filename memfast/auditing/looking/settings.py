"""What decides an audit's figures to rounding, and on equal machines to the bit."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from memfast.errors import InputError
from memfast.pipelines.schedule import SIZE, Request, Schedule

OF_THE_MACHINE = ("threads", "dtype", "device", "graphs")


@dataclass(frozen=True)
class Settings:
    """The settings that a block's result depends on.

    probe: an entry of PROBES. noises: how many noises each prompt is looked at with, the same for
    all prompts. path: the noise levels that `settle` and `jump` go through from pure noise, and
    `levels` and `shared` to each, falling shares of the training timesteps. walk_steps,
    num_inference_steps, guidance_scale and true_guidance_scale: the schedule of `walk` and of the
    pictures of the second look; they, and the pictures' height, width and num_frames, are the
    pipeline's own where None.
    adaptive: of probe `levels` and one noise, the share of references whose look at the last level
    earns the others; a prompt gets them where its own is as far from the references.
    unit: prompts of one call of the denoiser; None: what keeps the device busy (8 on a CPU), of
    that what fits. Every call has exactly that many rows, the last one padded, because kernels
    choose their order of summation by shape.
    threads (CPU threads, 0 for as many as torch uses), dtype and device decide the last bits alone:
    another run of an audit may have others. graphs: replay passes on CUDA, with the same bits.
    """

    probe: str = "jump"
    noises: int = 1
    seed: int = 0
    path: tuple[float, ...] = (0.05,)
    adaptive: float | None = None
    walk_steps: int = 7
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    true_guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    block_size: int = 256
    unit: int | None = None
    threads: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("noises", "walk_steps", "num_inference_steps", "block_size", "unit"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        levels = (1.0, *self.path, 0.0)
        if not self.path or not all(b < a for a, b in pairwise(levels)):
            raise InputError(f"path: needs falling noise levels between 1 and 0, got {self.path}")
        if self.adaptive is not None:
            if not 0 < self.adaptive < 1:
                raise InputError(f"adaptive {self.adaptive}: must lie between 0 and 1")
            if self.probe != "levels" or len(self.path) < 2 or self.noises > 1:
                raise InputError(
                    f"adaptive with probe {self.probe!r}, path {self.path}, {self.noises} noises: "
                    "needs probe 'levels', two levels or more and one noise"
                )
        steps = self.num_inference_steps
        if self.probe == "walk" and steps is not None and self.walk_steps > steps:
            raise InputError(
                f"walk_steps: {self.walk_steps} of {self.num_inference_steps} inference steps"
            )

    @property
    def schedule(self) -> Schedule:
        """Of an audit that runs. Raises InputError before it has one."""
        if self.num_inference_steps is None or self.guidance_scale is None:
            raise InputError("settings: without a schedule")
        true = self.true_guidance_scale or 1.0
        return Schedule(self.num_inference_steps, self.guidance_scale, true)

    @property
    def request(self) -> Request:
        """What a driver is asked for."""
        names = ("num_inference_steps", "guidance_scale", "true_guidance_scale", *SIZE)
        return {name: getattr(self, name) for name in names}  # type: ignore[return-value]

    def as_dict(self) -> dict[str, Any]:
        """The settings that the figures depend on, as JSON holds them, without what was left to the
        pipeline."""
        values = asdict(self) | {"path": list(self.path)}
        return {
            name: value
            for name, value in values.items()
            if name not in OF_THE_MACHINE and value is not None
        }
