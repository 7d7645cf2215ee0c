"""diffc's default score until November 2026: a row of the benchmarks.

    I_c = 1/P  sum_p  sum_s ( sum_{k in s(c)} w_k dL_p/dw_k )^2

over micro-batches p and all slices s of the channel's group: those that make the channel, read it
and scale it. The gradients are the loss's (diffc/prune/importance/diff_pruning.py says what that
costs).
"""

from __future__ import annotations

import numpy as np

from diffc.prune.importance.base import Importance, Score, Subject
from diffc.prune.importance.diff_pruning import loss_curve, stratified
from diffc.prune.importance.gradients import backward, draw_batch, slice_sums
from diffc.recipe import ImportanceSection
from diffc_export.events import Work


class SquaredLoss(Score):
    """Squares of first-order changes of the loss, over the timesteps in S."""

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        curve = yield from loss_curve(subject, options, seed)
        chosen = curve.above(options.threshold)
        times = stratified(chosen, options.passes, seed)
        total = {group.name: np.zeros(group.size) for group in subject.groups}
        for number, t in enumerate(times):
            backward(subject, draw_batch(subject, t, options.batch, (seed, 1, number)))
            for group, sums in slice_sums(subject):
                total[group.name] += np.square(sums).sum(axis=0)
        scores = {name: value / len(times) for name, value in total.items()}
        return Importance(scores, {"chosen_t": chosen, "passes": len(times)})
