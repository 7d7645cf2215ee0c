"""The published ddpm_prune.py (Taylor importance, multivariable=False).

t = 0, 1, 2, ... with one batch and one noise, up to and including the first t at which
L_t < T max_{s<=t} L_s. Gradients are added with their signs; then, over the slices s of a group,

    I_c = mean_s  sum_{k in s(c)} | w_k sum_t dL_t/dw_k |

Only weights of convolutions and linear layers count, as in torch-pruning's importances: no biases
and no norms. torch-pruning's selection is not repeated here; it cuts the same offsets out of every
run of a normalisation's channels.
"""

from __future__ import annotations

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


class Reference(Score):
    """The importance of the published ddpm_prune.py, as above.

    A slice of a channel has the sum of |w times dL/dw| over its weights, and a channel the mean of
    its slices. The gradients are summed over the timesteps 0, 1, 2, ... until the loss falls below
    T times the largest so far.
    """

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        steps = len(subject.denoiser.process)
        passes = SummedPasses(subject, elements=True)
        losses = passes.losses
        while not _is_over(losses, steps, options.threshold):
            t = len(losses)
            batch = draw_batch(subject, t, options.batch, (seed, 0))
            passes.add(backward(subject, batch, accumulate=t > 0))
            yield Progress(t + 1, steps, f"gradients at t = {t}", {"loss": losses[-1]})
        top = max(losses)
        sums = slice_sums(weights_only(subject), absolute=True)
        scores = {group.name: mean_over_slices(rows) for group, rows in sums}
        why = {
            "threshold": options.threshold,
            "curve": {"t": list(range(len(losses))), "relative_loss": [v / top for v in losses]},
            "chosen_t": [[0, len(losses) - 1]],
            "passes": len(losses),
            "batch": options.batch,
        }
        return Importance(scores, why)


def _is_over(losses: list[float], steps: int, threshold: float) -> bool:
    """Whether every timestep is done, or the last one lost less than T times the most so far."""
    return len(losses) == steps or (bool(losses) and losses[-1] < max(losses) * threshold)


SCORE = Reference()
