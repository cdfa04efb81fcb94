"""Gated activations fused with exact streaming statistics of every neuron.

`geglu`, `geglu_linear` and `column_moments` compute; `Moments` holds what they counted and
`merge` joins two of them. Needs torch; Triton where there is a GPU.
"""

from .activations import ACTIVATIONS
from .backends import BACKENDS, available
from .moments import Moments
from .operators import column_moments, geglu, geglu_linear, merge

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Moments",
    "available",
    "column_moments",
    "geglu",
    "geglu_linear",
    "merge",
]
