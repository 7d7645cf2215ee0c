"""Squared weights:

    I_c = mean_s  sum_{k in s(c)} w_k^2     over the slices s of a group

Only weights of convolutions and linear layers count, as in torch-pruning's importances: no biases
and no norms. torch-pruning's selection is not repeated here; it cuts the same offsets out of every
run of a normalisation's channels.
"""

from __future__ import annotations

import numpy as np

from diffc.models.sizes import get_tensor
from diffc.prune.importance.base import Importance, Score, Subject
from diffc.prune.importance.gradients import by_channel, mean_over_slices, weights_only
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, Work


class Magnitude(Score):
    """Mean squares of weights."""

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        scores = {}
        for group in weights_only(subject).groups:
            squares = [
                by_channel(
                    get_tensor(subject.denoiser.model, piece.tensor).detach().square(), piece
                )
                for piece in group.slices
            ]
            scores[group.name] = mean_over_slices(np.stack(squares))
        yield Progress(1, 1, "weights")
        return Importance(scores)


SCORE = Magnitude()
