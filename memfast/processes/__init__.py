"""Processes of a run: how it is stopped, and its workers, which end with it."""
