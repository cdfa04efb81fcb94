"""Prompt lists: any usual file in, a stream of prompts out. Imports neither torch nor pandas."""

from memfast.prompts.ids import clashing_ids
from memfast.prompts.prompt import Prompt, PromptSet, Rejected, make_prompt, text_id
from memfast.prompts.reading import read_prompts

__all__ = [
    "Prompt",
    "PromptSet",
    "Rejected",
    "clashing_ids",
    "make_prompt",
    "read_prompts",
    "text_id",
]
