"""memfast: find, remove and verify memorization in the feed-forward neurons of diffusion models.

Public names are imported on first use, so that `import memfast` costs nothing. When diffusers asks
this module for a compact model's class (`memfast.CompactUNet2DConditionModel`), it is made on demand.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "InputError": "memfast.errors",
    "PromptSet": "memfast.prompts",
    "read_prompts": "memfast.prompts",
    "NeuronStatistics": "memfast.statistics",
    "Subspace": "memfast.selection",
    "load_pipeline": "memfast.models.pipelines",
    "ffn_sites": "memfast.models.families",
    "collect": "memfast.models.collecting",
    "locate": "memfast.models.locating",
    "ablate": "memfast.models.surgery",
    "prune": "memfast.models.surgery",
    "compact": "memfast.models.compact",
    "audit": "memfast.auditing.run",
}

_BASES = {"ModelMixin": "diffusers", "PreTrainedModel": "transformers"}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name.startswith("Compact"):
        from memfast.models.compact_class import compact_class

        return compact_class(name)
    if name in _BASES:  # by these diffusers recognises what this library can load
        return getattr(import_module(_BASES[name]), name)
    raise AttributeError(f"module 'memfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
