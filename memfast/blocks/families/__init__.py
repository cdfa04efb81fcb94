"""Where feed-forward neurons live in the models of diffusers and transformers.

A neuron is one row of each expanding linear (two rows where value and gate are packed in one) and
one column of the contracting linear.
"""

from memfast.blocks.families.finding import ffn_sites, find_sites, uncompiled
from memfast.blocks.families.layout import Expansion, Family, Layout, Site
from memfast.blocks.families.table import FAMILIES

__all__ = [
    "FAMILIES",
    "Expansion",
    "Family",
    "Layout",
    "Site",
    "ffn_sites",
    "find_sites",
    "uncompiled",
]
