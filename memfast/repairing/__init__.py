"""Repair after removal: distil what reference prompts need, and unlearn what attacks still find."""
