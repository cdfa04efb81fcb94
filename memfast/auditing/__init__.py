"""Which of these captions does a model replicate? Scores for any number of prompts, in blocks."""

from memfast.auditing.run import audit, merge

__all__ = ["audit", "merge"]
