"""memfast: find, remove and verify memorization in the feed-forward neurons of diffusion models.

Public names are imported on first use, so that `import memfast` costs nothing. When diffusers asks
for a compact model's class here (`memfast.CompactUNet2DConditionModel`), it is made on demand.
"""

import sys
from importlib import import_module
from typing import Any

from memfast.version import __version__

_HOMES = {
    "InputError": "memfast.errors",
    "PromptSet": "memfast.prompts",
    "read_prompts": "memfast.prompts",
    "NeuronStatistics": "memfast.statistics",
    "Subspace": "memfast.selection",
    "load_pipeline": "memfast.pipelines.loading",
    "ffn_sites": "memfast.blocks.families",
    "collect": "memfast.observing.collecting",
    "collect_gradients": "memfast.observing.gradients",
    "locate": "memfast.choosing.locating",
    "study_overlap": "memfast.choosing.subspace_study",
    "ablate": "memfast.removing.masking",
    "prune": "memfast.removing.masking",
    "compact": "memfast.removing.compact",
    "least_squares": "memfast.removing.least_squares",
    "shrink": "memfast.removing.budget",
    "load_lora": "memfast.sharing.lora",
    "slice_lora": "memfast.sharing.lora",
    "audit": "memfast.auditing.run",
    "repair": "memfast.repairing.run",
    "collect_sensitivity": "memfast.observing.sensitivity",
    "learn_gates": "memfast.choosing.learned_gates",
    "evaluate": "memfast.evaluation.run",
    "attack": "memfast.attacks.run",
    "Guard": "memfast.guarding.guard",
    "attach_guard": "memfast.guarding.guard",
    "calibrate_guard": "memfast.guarding.calibrating",
    "index_images": "memfast.measuring.index",
    "ImageIndex": "memfast.measuring.index",
    "guard": "memfast.guarding.guard",
}

_BASES = {"ModelMixin": "diffusers", "PreTrainedModel": "transformers"}

if "diffusers.pipelines.pipeline_loading_utils" in sys.modules:  # tell it of the compact classes
    import_module("memfast.blocks.compact_class")

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name.startswith("Compact"):
        from memfast.blocks.compact_class import compact_class

        return compact_class(name)
    if name in _BASES:  # by these diffusers recognises what this library can load
        return getattr(import_module(_BASES[name]), name)
    raise AttributeError(f"module 'memfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
