"""What `memfast families` lists: counted on the released models' shapes, without their weights.

`python -m memfast.blocks.families.count` counts again; FLOPs are of one denoising step at the
example's resolution.
"""

from typing import NamedTuple


class Figures(NamedTuple):
    """Of one released model: sites, neurons, percent of parameters and of FLOPs in neurons."""

    sites: int
    neurons: int
    parameters: float
    flops: float


FIGURES: dict[str, Figures] = {
    "SD 1.4": Figures(16, 49920, 17.3, 19.1),
    "SD 2.1": Figures(16, 49920, 17.2, 16.1),
    "SDXL": Figures(70, 332800, 47.9, 41.7),
    "SVD": Figures(48, 149760, 29.3, 35.4),
    "SD 3 medium": Figures(47, 288768, 43.7, 44.9),
    "SD 3.5 large": Figures(75, 729600, 44.1, 51.1),
    "PixArt-Σ": Figures(28, 129024, 48.7, 36.7),
    "DiT-XL": Figures(28, 129024, 39.7, 64.1),
    "HunyuanDiT": Figures(40, 245760, 45.7, 39.5),
    "Qwen-Image": Figures(120, 1474560, 44.4, 53.3),
    "Wan 2.1 14B": Figures(40, 552960, 39.6, 41.8),
    "CogVideoX 5B": Figures(42, 516096, 56.9, 59.3),
    "LTX": Figures(28, 229376, 48.9, 51.7),
    "Mochi": Figures(95, 585728, 45.0, 58.1),
    "Stable Audio": Figures(24, 147456, 64.3, 61.3),
    "Flux.1": Figures(76, 933888, 48.2, 53.3),
    "Chroma": Figures(76, 933888, 64.5, 53.2),
    "HunyuanVideo": Figures(82, 1007616, 48.3, 59.3),
    "Flux.2": Figures(64, 1179648, 67.5, 62.0),
    "Lumina-Next": Figures(32, 196608, 58.1, 52.3),
    "Lumina 2": Figures(30, 276480, 73.2, 65.2),
    "Z-Image": Figures(34, 348160, 65.2, 56.1),
    "AuraFlow": Figures(40, 327680, 44.2, 53.9),
    "Sana 1.6B": Figures(20, 112000, 47.1, 52.1),
    "CLIP-L": Figures(12, 36864, 46.0, 65.6),
    "T5": Figures(24, 1572864, 66.2, 64.0),
    "T5 v1.1 XXL": Figures(24, 245760, 63.4, 64.5),
}
