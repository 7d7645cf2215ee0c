"""Groups of transformers, block by block.

A transformer's residual stream runs through every block, its modulation tables and its position
embedding, and is left whole. The inside of each block is cut: the width of the feed-forward and
the heads of the attention.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from diffc.models.families.attention import attention_groups
from diffc.models.families.feed_forward import feed_forward_groups
from diffc.models.groups import Group


def block_groups(model: nn.Module, *, head_dims: bool = False) -> list[Group]:
    """Return the groups of ``model``'s feed-forwards and attentions, in its modules' order.

    Args:
        model: A transformer.
        head_dims: As ``attention_groups`` has it: dimensions of heads are cut instead of heads.
    """
    groups = [*attention_groups(model, head_dims=head_dims), *feed_forward_groups(model)]
    return in_order(model, groups)


def in_order(model: nn.Module, groups: Iterable[Group]) -> list[Group]:
    """Return ``groups`` in the order in which their first layers come in ``model``."""
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return sorted(groups, key=lambda group: order[group.slices[0].module])
