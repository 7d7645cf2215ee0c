"""The plan: which channels of which group are kept, and why. Written as plan.json.

A plan is made before anything is cut; surgery does exactly what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffc.errors import InputError
from diffc.models.groups import Group
from diffc.prune.cost import Cost

PLAN_FORMAT = 1


@dataclass(frozen=True)
class GroupPlan:
    """One group's fate. keep: ascending channel indices. lost: the share of importance cut away."""

    name: str
    kind: str
    size: int
    kept: int
    step: int
    keep: tuple[int, ...]
    lost: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """The widths before and after.

    why: how it came about (importance, threshold, curve L_t / L_max, S, allocation, budget).
    """

    groups: tuple[GroupPlan, ...]
    dense: Cost
    compressed: Cost
    why: Mapping[str, Any] = field(default_factory=dict)

    @property
    def widths(self) -> NDArray[np.int64]:
        """(G,) channels kept."""
        return np.array([group.kept for group in self.groups], dtype=np.int64)

    def keep(self) -> dict[str, NDArray[np.int64]]:
        """Group name -> channels kept, for groups that lose some."""
        return {
            group.name: np.asarray(group.keep, dtype=np.int64)
            for group in self.groups
            if group.kept < group.size
        }

    def save(self, path: Path) -> None:
        """Write plan.json."""
        value = {"format": PLAN_FORMAT, **asdict(self)}
        path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read plan.json; InputError when it is damaged or of a newer format."""
        try:
            value = json.loads(path.read_text("utf-8"))
            if value.pop("format") != PLAN_FORMAT:
                raise InputError(f"{path} is of another format than diffc's {PLAN_FORMAT}")
            groups = tuple(GroupPlan(**{**g, "keep": tuple(g["keep"])}) for g in value["groups"])
            return cls(groups, Cost(**value["dense"]), Cost(**value["compressed"]), value["why"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot read the plan {path}: {error}") from error


def best_channels(scores: NDArray[np.float64], kept: int, runs: int) -> NDArray[np.int64]:
    """The ``kept`` best channels, equally many from each of ``runs`` equal runs, ascending.

    scores: (C,), higher is more important. Ties go to the lower index, so that plans reproduce.
    """
    rows = scores.reshape(runs, -1)
    each = kept // runs
    order = np.argsort(-rows, axis=1, kind="stable")[:, :each]
    offset = np.arange(runs)[:, None] * rows.shape[1]
    chosen: NDArray[np.int64] = np.sort((order + offset).ravel()).astype(np.int64)
    return chosen


def group_plans(
    groups: Sequence[Group],
    scores: Mapping[str, NDArray[np.float64]],
    widths: NDArray[np.int64],
    steps: Sequence[int],
) -> tuple[GroupPlan, ...]:
    """The plan of each group at the given widths."""
    plans = []
    for group, kept, step in zip(groups, widths.tolist(), steps, strict=True):
        score = scores[group.name]
        keep = best_channels(score, kept, group.runs)
        total = float(score.sum())
        lost = 1.0 - float(score[keep].sum()) / total if total > 0 else 0.0
        plans.append(
            GroupPlan(
                group.name, group.kind, group.size, kept, step, tuple(keep.tolist()), max(lost, 0.0)
            )
        )
    return tuple(plans)
