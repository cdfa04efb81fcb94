"""Pictures, captions and their words."""
