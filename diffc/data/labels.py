"""Class labels that are drawn, without torch: engines make the same pictures from them."""

from __future__ import annotations

import numpy as np

LABEL = 2
"""The stream of keys that labels are drawn from."""


def drawn_label(seed: int, i: int, classes: int) -> int:
    """Return the label of image i of a seed, 0 to classes - 1.

    It is that of ``torch.randint(classes, ())`` with ``keyed_generator(seed, LABEL, i)``: PyTorch's
    generator on a CPU is a Mersenne Twister as well, and its remainder the label.
    """
    word = int(np.random.SeedSequence((seed, LABEL, i)).generate_state(1, np.uint32)[0])
    twister = np.random.MT19937()
    twister._legacy_seeding(word)  # init_genrand, as PyTorch seeds its own
    return int(twister.random_raw()) % classes
