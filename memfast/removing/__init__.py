"""Cutting what was chosen."""
