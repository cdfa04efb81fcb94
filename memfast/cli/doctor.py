"""memfast doctor: what is here, what is missing, and how to get it."""

import platform
from importlib import metadata
from importlib.util import find_spec

LIBRARIES = ("memfast", "torch", "diffusers", "transformers", "safetensors", "numpy", "pyarrow")
EXTRAS = {  # module: (what it is for, how to get it)
    "triton": ("fused operators on GPUs", "pip install 'memfast[triton]'"),
    "memfast_kernels._columns": ("fast columns on CPUs", "a C compiler; then reinstall memfast"),
    "peft": ("LoRA files", "pip install 'memfast[lora]'"),
    "ray": ("audits on a cluster", "pip install 'memfast[ray]'"),
    "xformers": ("--attention xformers", "pip install 'memfast[xformers]'"),
    "efficientnet_lite_pytorch": ("the perceptual metric", "pip install 'memfast[perceptual]'"),
    "accelerate": ("offload of large models", "pip install accelerate"),
}


def doctor() -> None:
    """Versions and devices, and what is missing."""
    import torch

    from memfast.cli.console import show_table, tell

    versions = {"python": platform.python_version()}
    versions |= {name: _version(name) for name in LIBRARIES}
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices[f"cuda:{number}"] = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    if torch.backends.mps.is_available():
        devices["mps"] = platform.processor() or "Apple"
    extras = {name: _found(name) for name in EXTRAS}
    show_table("versions", ("library", "version"), versions.items())
    show_table("devices (--device)", ("device", "what it is"), devices.items())
    missing = [(name, *EXTRAS[name]) for name, here in extras.items() if not here]
    if missing:
        show_table("not here", ("package", "what for", "how to get it"), missing)
    tell({"versions": versions, "devices": devices, "extras": extras})


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
