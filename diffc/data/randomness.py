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


class ImageNoise:
    """The noise of some images of a seed, as the serving runtime draws it for them.

    Image i is the same alone and among sixteen, in torch and by an engine: each has a stream of its
    own, which gives the noise that it starts from, then that of each step that adds some.
    """

    def __init__(self, seed: int, index: range, shape: Sequence[int]) -> None:
        """Begin the streams of the images ``index`` of ``seed``, of (*shape) each."""
        self._streams = noise.image_streams(seed, index.start, len(index))
        self._drawn = np.empty((len(index), *shape), np.float32)
        self.first = torch.empty(self._drawn.shape)
        """(B, *shape) standard normal: what the images start from."""
        self.draw(self.first)

    def draw(self, out: Tensor) -> None:
        """Fill ``out`` (B, *shape) with the noise of the next step that adds some."""
        noise.fill(self._streams, self._drawn)
        out.copy_(torch.from_numpy(self._drawn))
