"""memfast: find, remove and verify memorization in the feed-forward neurons of diffusion models.

Public names are imported on first use, so that `import memfast` costs nothing. When diffusers asks
for a compact model's class here (`memfast.CompactUNet2DConditionModel`), it is made on demand.
"""

import sys
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
    "collect_gradients": "memfast.models.gradients",
    "locate": "memfast.models.locating",
    "study_overlap": "memfast.models.overlap",
    "ablate": "memfast.models.surgery",
    "prune": "memfast.models.surgery",
    "compact": "memfast.models.compact",
    "least_squares": "memfast.models.least_squares",
    "shrink": "memfast.models.shrinking",
    "load_lora": "memfast.models.lora",
    "slice_lora": "memfast.models.lora",
    "audit": "memfast.auditing.run",
    "repair": "memfast.repairing.run",
    "collect_sensitivity": "memfast.models.sensitivity",
    "learn_gates": "memfast.models.learned_gates",
    "evaluate": "memfast.evaluation.run",
    "attack": "memfast.evaluation.attacking",
}

_BASES = {"ModelMixin": "diffusers", "PreTrainedModel": "transformers"}

if "diffusers.pipelines.pipeline_loading_utils" in sys.modules:  # tell it of the compact classes
    import_module("memfast.models.compact_class")

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
