"""What the feed-forwards of one denoising step would cost on a GPU. A model, not a measurement.

Every operation takes the larger of its arithmetic at the GPU's matrix rate and its memory traffic
at the GPU's bandwidth; nothing overlaps, launches are free, caches hold nothing between operations.
Statistics of the pointwise kernel and the matrix product cost their partial results' traffic, and
in the product also their instructions (as counted in the compiled kernel), either hidden or not.
The last table holds the pointwise kernel's instructions against its memory traffic: below 1, the
memory is what it waits for, and its statistics should be free.

Usage: python benchmarks/roofline.py
"""

from collections.abc import Callable
from dataclasses import dataclass

BYTES = 2  # of an element, bfloat16
PART_ROWS = 512  # the fewest rows behind one partial result
PART_BYTES = 20  # float64 mean, float32 m2 and max_abs, int32 nonzero
STATISTICS = 8.6  # lane instructions an element of H, in the product's epilogue
GATE, GATE_STATISTICS = 36.2, 10.0  # the same in the pointwise kernel's loop, sm_90


@dataclass(frozen=True)
class Gpu:
    """flops: of bfloat16 matrix products a second; bandwidth: bytes a second; lanes: a second."""

    name: str
    flops: float
    bandwidth: float
    lanes: float


@dataclass(frozen=True)
class Layer:
    """count feed-forwards: rows × channels → neurons (twice, where gated) → channels."""

    count: int
    rows: int
    channels: int
    neurons: int
    gated: bool = True

    @property
    def width(self) -> int:
        return self.neurons * (2 if self.gated else 1)


GPUS = (
    Gpu("H100", 798e12, 3.0e12, 132 * 128 * 1.7e9),
    Gpu("A100 (assumed rates)", 260e12, 1.7e12, 108 * 64 * 1.41e9),
)
MODELS = {
    "SD1.4, 512 px, guidance batch of 2": (
        Layer(5, 8192, 320, 1280),
        Layer(5, 2048, 640, 2560),
        Layer(5, 512, 1280, 5120),
        Layer(1, 128, 1280, 5120),
    ),
    "SDXL, 1024 px, guidance batch of 2": (
        Layer(10, 8192, 640, 2560),
        Layer(60, 2048, 1280, 5120),
    ),
    "Flux.1-dev, 1024 px, 512 text tokens": (
        Layer(19, 4096, 3072, 12288, gated=False),
        Layer(19, 512, 3072, 12288, gated=False),
        Layer(38, 4608, 3072, 12288, gated=False),
    ),
}


def matmul(gpu: Gpu, rows: int, inner: int, columns: int, written: float | None = None) -> float:
    """Seconds of x·Wᵀ; written: elements stored, where they are not rows × columns."""
    traffic = rows * inner + inner * columns + (rows * columns if written is None else written)
    return max(2 * rows * inner * columns / gpu.flops, traffic * BYTES / gpu.bandwidth)


def parts(gpu: Gpu, layer: Layer) -> float:
    """Seconds to write and read back the partial statistics."""
    return 2 * PART_BYTES * layer.neurons * layer.rows / PART_ROWS / gpu.bandwidth


def passes(gpu: Gpu, layer: Layer, elements_of_h: float) -> float:
    """Seconds of elementwise traffic, in elements of H moved for each element of H."""
    return elements_of_h * layer.rows * layer.neurons * BYTES / gpu.bandwidth


def second_linear(gpu: Gpu, layer: Layer) -> float:
    return matmul(gpu, layer.rows, layer.neurons, layer.channels)


def linears(gpu: Gpu, layer: Layer) -> float:
    first = matmul(gpu, layer.rows, layer.channels, layer.width)
    return first + second_linear(gpu, layer)


def eager(gpu: Gpu, layer: Layer) -> float:
    """The activation reads and writes once; where gated the product reads two and writes one."""
    return linears(gpu, layer) + passes(gpu, layer, 5 if layer.gated else 2)


def norm_hook(gpu: Gpu, layer: Layer) -> float:
    """Square (read, write float32), sum (read float32)."""
    return eager(gpu, layer) + passes(gpu, layer, 5)


def statistics_hook(gpu: Gpu, layer: Layer) -> float:
    """Convert, deviation, square and their sums in float32; absolute value; comparison."""
    return eager(gpu, layer) + passes(gpu, layer, 16)


def pointwise(gpu: Gpu, layer: Layer) -> float:
    """One kernel reads the projection, writes H and the partial statistics."""
    return linears(gpu, layer) + passes(gpu, layer, 3 if layer.gated else 2) + parts(gpu, layer)


def dual_hidden(gpu: Gpu, layer: Layer) -> float:
    """The projection is never stored; epilogue and statistics hide behind the next tile."""
    stored = layer.rows * layer.neurons
    first = matmul(gpu, layer.rows, layer.channels, layer.width, stored)
    return first + second_linear(gpu, layer) + parts(gpu, layer)


def dual_exposed(gpu: Gpu, layer: Layer) -> float:
    """The same, where nothing hides the instructions of the statistics."""
    return dual_hidden(gpu, layer) + STATISTICS * layer.rows * layer.neurons / gpu.lanes


def instructions_over_memory(gpu: Gpu, layer: Layer) -> float:
    """Time to issue the pointwise kernel's instructions over the time of its bytes."""
    elements = layer.rows * layer.neurons
    issue = (GATE + GATE_STATISTICS) * elements / gpu.lanes
    return issue / (passes(gpu, layer, 3) + parts(gpu, layer))


WAYS: dict[str, Callable[[Gpu, Layer], float]] = {
    "eager": eager,
    "eager + L2 hook": norm_hook,
    "eager + four-statistic hook": statistics_hook,
    "linear + pointwise kernel, four statistics": pointwise,
    "one product, four statistics, hidden": dual_hidden,
    "one product, four statistics, exposed": dual_exposed,
}


def step(way: Callable[[Gpu, Layer], float], gpu: Gpu, layers: tuple[Layer, ...]) -> float:
    """Modelled microseconds of all feed-forwards of one denoising step."""
    return 1e6 * sum(layer.count * way(gpu, layer) for layer in layers)


def report() -> str:
    lines = ["MODEL, NOT MEASURED: roofline, microseconds of all feed-forwards of one step"]
    for model, layers in MODELS.items():
        flops = sum(2 * n.count * n.rows * n.channels * (n.width + n.neurons) for n in layers)
        h = sum(n.count * n.rows * n.neurons for n in layers) * BYTES
        weights = sum(n.count * n.channels * (n.width + n.neurons) for n in layers) * BYTES
        lines += ["", f"{model}: {flops / 1e12:.2f} TFLOP, {weights / 1e6:.0f} MB of weights,"]
        lines[-1] += f" {h / 1e6:.0f} MB of H"
        lines.append(f"{'':45}" + "".join(f"{gpu.name:>22}" for gpu in GPUS))
        for name, way in WAYS.items():
            figures = "".join(f"{step(way, gpu, layers):22.0f}" for gpu in GPUS)
            lines.append(f"{name:45}{figures}")
    lines += ["", "pointwise kernel with statistics, instructions over memory"]
    for layer in dict.fromkeys(n for layers in MODELS.values() for n in layers if n.gated):
        figures = "".join(f"{instructions_over_memory(gpu, layer):22.2f}" for gpu in GPUS)
        lines.append(f"{layer.rows} × {layer.neurons}".ljust(45) + figures)
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
