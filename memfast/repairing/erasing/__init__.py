"""Erasing: weights are shrunk and perturbed, those that memorized captions use most the most."""
