"""Which of these captions does a model replicate? Scores for any number of prompts, in blocks."""

from memfast.auditing.merging import merge
from memfast.auditing.run import audit

__all__ = ["audit", "merge"]
