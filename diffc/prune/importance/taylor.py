"""The published Taylor importance (multivariable=True), without a threshold, at every 10th t:

    I_c = mean_s  | sum_{k in s(c)} w_k sum_t dL_t/dw_k |     over the slices s of a group

Only weights of convolutions and linear layers count, as in torch-pruning's importances: no biases
and no norms. torch-pruning's selection is not repeated here; it cuts the same offsets out of every
run of a normalisation's channels.
"""

from __future__ import annotations

import numpy as np

from diffc.prune.importance.base import Importance, Score, Subject
from diffc.prune.importance.by_block import SummedPasses
from diffc.prune.importance.gradients import (
    backward,
    draw_batch,
    mean_over_slices,
    slice_sums,
    weights_only,
)
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, Work


class Taylor(Score):
    """Absolute sums of products of weights and gradients, over every 10th timestep."""

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        times = list(range(0, len(subject.denoiser.process), 10))
        passes = SummedPasses(subject)
        for i in range(len(passes.losses), len(times)):
            batch = draw_batch(subject, times[i], options.batch, (seed, 0))
            passes.add(backward(subject, batch, accumulate=i > 0))
            loss = {"loss": passes.losses[-1]}
            yield Progress(i + 1, len(times), f"gradients at t = {times[i]}", loss)
        sums = slice_sums(weights_only(subject))
        scores = {group.name: mean_over_slices(np.abs(rows)) for group, rows in sums}
        return Importance(scores, {"passes": len(times), "batch": options.batch})


SCORE = Taylor()
