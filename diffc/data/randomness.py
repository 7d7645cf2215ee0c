"""Random numbers that depend on a key alone, never on earlier draws.

Image 17 of seed 3 starts from the same noise in any batch, any process and any resumed run, so no
generator's state has to be saved or sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffc_runtime import noise


def keyed_generator(*key: int) -> torch.Generator:
    """Return a CPU generator seeded by non-negative integers, such as (seed, step, row)."""
    # PyTorch's CPU generator keeps 32 bits of its seed: mix the key down to those 32.
    word = int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])
    return torch.Generator().manual_seed(word)


def keyed_noise(keys: Iterable[Sequence[int]], shape: Sequence[int]) -> Tensor:
    """Return standard normal float32 (B, *shape); the r-th key draws row r."""
    return torch.stack([torch.randn(*shape, generator=keyed_generator(*key)) for key in keys])


def image_noise(seed: int, index: range, shape: Sequence[int]) -> Tensor:
    """Return the noise (len(index), *shape) that the runtime starts these images of a seed from."""
    return torch.from_numpy(noise.image_noise(seed, index.start, len(index), shape))
