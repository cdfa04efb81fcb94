"""Prompt lists: any usual file in, a stream of prompts out. Imports neither torch nor pandas."""

from memfast.prompts.ids import clashing_ids
from memfast.prompts.inputs import inputs, open_list
from memfast.prompts.prompt import Prompt, PromptSet, make_prompt, text_id
from memfast.prompts.reading import read_prompts
from memfast.prompts.rejected import BORNE, Rejected, RejectedRows

__all__ = [
    "BORNE",
    "Prompt",
    "PromptSet",
    "Rejected",
    "RejectedRows",
    "clashing_ids",
    "inputs",
    "make_prompt",
    "open_list",
    "read_prompts",
    "text_id",
]
