"""Derive an independent random generator for each purpose from the seed. Nothing uses global random state."""

import hashlib

import torch


def number(seed: int, purpose: str) -> int:
    """Return the number in [0, 2**63) that `seed` and `purpose` determine, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a PyTorch generator for one purpose, such as 'order of epoch 3'."""
    return torch.Generator().manual_seed(number(seed, purpose))
