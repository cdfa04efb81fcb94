"""Gated activations fused with exact streaming statistics of every neuron.

`geglu`, `geglu_linear` and `column_moments` compute; `Moments` holds what they counted and
`merge` joins two of them; `prepare` lays out weights that many calls will read, where that is
faster (`fuses`). Needs torch;
Triton where there is a GPU.
"""

from .activations import ACTIVATIONS
from .backends import BACKENDS, available
from .moments import Moments
from .operators import column_moments, geglu, geglu_linear, merge
from .weights import Prepared, fuses, prepare

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Moments",
    "Prepared",
    "available",
    "column_moments",
    "fuses",
    "geglu",
    "geglu_linear",
    "merge",
    "prepare",
]
