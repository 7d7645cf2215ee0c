"""The plan: which channels and branches are kept, and why. Written as plan.json.

A plan is made before anything is cut; surgery does exactly what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffc.errors import InputError
from diffc.models.groups import BRANCH_KINDS
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from diffc.models.branches import Unit

PLAN_FORMAT = 2
"""1 had ``groups`` of channels alone, in place of ``units``."""


@dataclass(frozen=True)
class Cost:
    """MACs and parameters of one image (batch 1)."""

    macs: float
    macs_paper: float
    params: int


@dataclass(frozen=True)
class UnitPlan:
    """The part of one unit that is kept: channels of a group, or a branch (1 or 0 of 1).

    Attributes:
        name: Of the group or the branch.
        kind: Of the group (``channels``, ``ffn``, ``heads``, ``head_dim``) or of the branch
            (``branch``, ``block``).
        size: How many channels there are.
        kept: How many are kept.
        step: What ``kept`` is a multiple of.
        keep: The kept channels' indices, ascending.
        lost: The share of the unit's importance that is cut away; None where nothing was ranked.
    """

    name: str
    kind: str
    size: int
    kept: int
    step: int
    keep: tuple[int, ...]
    lost: float | None = None


@dataclass(frozen=True)
class Plan:
    """The widths before and after.

    Attributes:
        units: Every group of channels, and the branches that were up for being left out.
        dense: The cost before.
        compressed: The cost after.
        why: How the plan came about (importance, threshold, curve L_t / L_max, S, allocation,
            budget).
    """

    units: tuple[UnitPlan, ...]
    dense: Cost
    compressed: Cost
    why: JsonObject = field(default_factory=dict)

    @property
    def groups(self) -> tuple[UnitPlan, ...]:
        """The groups of channels among the units."""
        return tuple(unit for unit in self.units if unit.kind not in BRANCH_KINDS)

    @property
    def left_out(self) -> tuple[UnitPlan, ...]:
        """The branches and blocks that go whole."""
        return tuple(unit for unit in self.units if unit.kind in BRANCH_KINDS and not unit.kept)

    @property
    def widths(self) -> NDArray[np.int64]:
        """(U,) how much of each unit is kept."""
        return np.array([unit.kept for unit in self.units], dtype=np.int64)

    def keep(self) -> dict[str, NDArray[np.int64]]:
        """Unit's name -> channels kept, for units that lose some; none for a branch left out."""
        return {
            unit.name: np.asarray(unit.keep, dtype=np.int64)
            for unit in self.units
            if unit.kept < unit.size
        }

    def save(self, path: Path) -> None:
        """Write plan.json."""
        value = {"format": PLAN_FORMAT, **asdict(self)}
        path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read plan.json.

        Raises:
            InputError: When the file is damaged or of a newer format.
        """
        try:
            value = json.loads(path.read_text("utf-8"))
            units = tuple(_read_unit(unit) for unit in plan_units(value, path))
            return cls(units, Cost(**value["dense"]), Cost(**value["compressed"]), value["why"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot read the plan {path}: {error}") from error


def plan_units(plan: JsonObject, path: Path) -> list[JsonDict]:
    """The units in the content of a plan.json of any format that diffc has written.

    Raises:
        InputError: When the format is a newer one.
    """
    names = {1: "groups", PLAN_FORMAT: "units"}
    name = names.get(plan["format"])
    if name is None:
        raise InputError(f"{path} is of another format than diffc's {PLAN_FORMAT}")
    return list(plan[name])


def _read_unit(unit: JsonObject) -> UnitPlan:
    fields = {name: value for name, value in unit.items() if name != "why"}  # format 1's, empty
    return UnitPlan(**{**fields, "keep": tuple(unit["keep"])})


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


def unit_plans(
    units: Sequence[Unit],
    scores: Mapping[str, NDArray[np.float64]],
    widths: NDArray[np.int64],
    steps: Sequence[int],
) -> tuple[UnitPlan, ...]:
    """The plan of each unit at the given widths."""
    plans = []
    for unit, kept, step in zip(units, widths.tolist(), steps, strict=True):
        score = scores[unit.name]
        keep = best_channels(score, kept, unit.runs)
        total = float(score.sum())
        lost = 1.0 - float(score[keep].sum()) / total if total > 0 else 0.0
        indices = tuple(keep.tolist())
        plans.append(UnitPlan(unit.name, unit.kind, unit.size, kept, step, indices, max(lost, 0.0)))
    return tuple(plans)
