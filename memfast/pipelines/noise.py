"""Noise that depends on a prompt's id and a seed alone: never on its batch, place or worker."""

from hashlib import blake2b

import torch


def generator(prompt_id: str, seed: int) -> torch.Generator:
    """A CPU generator for this prompt under this seed."""
    digest = blake2b(f"{seed}\0{prompt_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
