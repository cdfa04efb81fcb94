"""The embedded model: a small text-to-image pipeline that truly memorizes, with its prompts."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
