"""Mitigations behind one interface. To add one, add an entry to `MITIGATIONS`."""

from collections.abc import Mapping
from functools import partial

from memfast.evaluation.mitigations import (
    attention,
    captions,
    prompt_embedding,
    pruning,
    value_neurons,
)
from memfast.evaluation.mitigations.interface import Mitigation, Setting, Treated

_SOMEPALLI = "Somepalli et al. 2023, arXiv 2305.20086"
_PAPER = "arXiv 2406.18566"

MITIGATIONS: Mapping[str, Mitigation] = {
    entry.name: entry
    for entry in (
        Mitigation("none", "", "weights", lambda setting: Treated(setting.driver)),
        Mitigation("random-words", _SOMEPALLI, "pipeline", partial(captions.perturbed, "add")),
        Mitigation(
            "word-repetition", _SOMEPALLI, "pipeline", partial(captions.perturbed, "repeat")
        ),
        Mitigation(
            "prompt-embedding",
            "Wen et al. 2024, arXiv 2407.21720",
            "pipeline",
            prompt_embedding.optimised,
        ),
        Mitigation(
            "attention-rescaling",
            "Ren et al. 2024, arXiv 2403.11052",
            "pipeline",
            attention.rescaling,
            needs_clip_attention=True,
        ),
        Mitigation(
            "value-neurons",
            "Hintersdorf et al. 2024, arXiv 2406.02366",
            "weights",
            value_neurons.value_neurons,
            needs_clip_attention=True,
        ),
        Mitigation("paper", _PAPER, "weights", partial(pruning.located, "paper"), "weights"),
        Mitigation("neurons", "memfast", "weights", partial(pruning.located, "neurons"), "neurons"),
        Mitigation("least-needed", "memfast", "weights", pruning.least_needed, "neurons"),
    )
}

__all__ = ["MITIGATIONS", "Mitigation", "Setting", "Treated"]
