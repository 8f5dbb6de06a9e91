"""One source of randomness for each purpose, derived from the seed and named. No global state decides anything."""

import hashlib

import torch


def number(seed: int, purpose: str) -> int:
    """A number in [0, 2**63) that `seed` and `purpose` determine, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A generator of PyTorch's for one purpose, like 'order of epoch 3'."""
    return torch.Generator().manual_seed(number(seed, purpose))
