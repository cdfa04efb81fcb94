"""Kinds trained on noise by alpha-bar, one a file."""
