"""Which branches must stay so that the network reads every input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from diffc.models.branches import Branch, Stretch, Unit, covering, without
from diffc.models.families.base import Family
from diffc.models.families.reach import trace_call
from diffc.prune.allocate import Limits, Scores


def held_branches(
    model: nn.Module,
    known: Family,
    inputs: Mapping[str, torch.Tensor],
    units: Sequence[Unit],
    bounds: Limits,
    scores: Scores,
) -> list[int]:
    """Places of the branches that must stay so that the output depends on every input.

    What takes one of them with it must stay too.

    Without any cross-attention nothing would read the text, and an exported graph would lose that
    input. Of the branches that could keep an input, those with the highest scores do.

    Args:
        model: The network on the meta device, of the family ``known``.
        inputs: The inputs of one call.
        units: What can shrink.
        bounds: What each unit may become; a branch whose least is 0 may go.
        scores: Unit's name -> importance.
    """
    branches = {
        i: u for i, u in enumerate(units) if isinstance(u, Branch) and not isinstance(u, Stretch)
    }
    free = {i: u for i, u in branches.items() if bounds.least[i] == 0}
    ranked = sorted(free, key=lambda i: float(np.sum(scores.get(free[i].name, 0.0))), reverse=True)
    staying: list[int] = []

    def is_whole(stay: int) -> bool:
        """Whether all inputs are used where only ``staying`` and the ``stay`` best stay."""
        kept = {*staying, *ranked[:stay]}
        with without(model, [branch for i, branch in free.items() if i not in kept]):
            return set(inputs) <= set(trace_call(model, inputs, known.call).inputs)

    while not is_whole(0):
        low, high = 0, len(ranked)  # not whole at low, whole at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_whole(middle) else (middle, high)
        staying.append(ranked[low])
    around = covering(units)
    return [*staying, *(outer for place in staying for outer in around[place])]
