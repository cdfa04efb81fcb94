"""Kinds trained on rectified flow, one a file."""
