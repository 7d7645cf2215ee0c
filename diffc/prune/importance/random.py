"""Random numbers, uniform on [0, 1), from the seed: what every other score must beat."""

from __future__ import annotations

import numpy as np

from diffc.prune.importance.base import Importance, Score, Subject
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, Work


class Random(Score):
    """Uniform random numbers."""

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        generator = np.random.default_rng((seed, 3))
        yield Progress(1, 1, "random numbers")
        return Importance({group.name: generator.random(group.size) for group in subject.groups})


SCORE = Random()
