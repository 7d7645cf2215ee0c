"""Chains of linear layers, whose costs are products of neighbouring widths."""

from __future__ import annotations

import numpy as np

from diffc.models.groups import Group, Role, Slice
from diffc.prune.cost import CostModel, Term


def chain(*sizes: int, runs: int = 1) -> CostModel:
    """A chain of linear layers, 8 -> sizes... -> 8; MACs are products of neighbours."""
    widths = [8, *sizes, 8]
    shapes = {f"l{i}.weight": (widths[i + 1], widths[i]) for i in range(len(widths) - 1)}
    terms = [
        Term(1.0, ((name, 0), (name, 1)), name.removesuffix(".weight"), "linear") for name in shapes
    ]
    groups = []
    for i, size in enumerate(sizes):
        index = np.arange(size)[:, None]
        slices = (
            Slice(f"l{i}.weight", 0, Role.OUT, index),
            Slice(f"l{i + 1}.weight", 1, Role.IN, index),
        )
        groups.append(Group(f"l{i}", size, slices, runs=runs))
    return CostModel(terms, shapes, groups)


def random_scores(costs: CostModel, seed: int) -> dict[str, np.ndarray]:
    """A positive score for every position of every group."""
    generator = np.random.default_rng(seed)
    return {g.name: generator.exponential(size=g.size) for g in costs.groups}
