"""Squared weights:

    I_c = mean_s  sum_{k in s(c)} w_k^2     over the slices s of a group

Only weights of convolutions and linear layers count, as in torch-pruning's importances: no biases
and no norms. torch-pruning's selection is not repeated here; it cuts the same offsets out of every
run of a normalisation's channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diffc.data.sharding import whole
from diffc.models.groups import Slice
from diffc.models.sizes import get_tensor
from diffc.prune.importance.base import Importance, Score, Subject
from diffc.prune.importance.gradients import mean_over_slices, of_slice, weights_only
from diffc.prune.importance.sums import channel_sums
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, Work


class Magnitude(Score):
    """Mean squares of weights."""

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        scores = {}
        for group in weights_only(subject).groups:
            rows = [_squares(subject.denoiser.model, piece) for piece in group.slices]
            scores[group.name] = mean_over_slices(np.stack(rows))
        yield Progress(1, 1, "weights")
        return Importance(scores)


def _squares(model: nn.Module, piece: Slice) -> NDArray[np.float64]:
    weight = whole(get_tensor(model, piece.tensor).detach())
    sums = channel_sums(lambda part: weight[part].square(), weight.shape, piece.dim)
    return of_slice(sums.cpu().numpy(), piece)


SCORE = Magnitude()
