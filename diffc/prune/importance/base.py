"""What a score is given, and what it returns. Imports no torch.

Score        one way to rank units: a class with ``measure``, and one instance ``SCORE``
Subject      the model, its data and its groups
Importance   the scores, and how they came about
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffc.models.groups import Group
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from pathlib import Path

    from diffc.data.clean import CleanSet
    from diffc.models.branches import Branch
    from diffc.models.denoiser import Denoiser
    from diffc.prune.importance.by_block import GradientSums
    from diffc.recipe import ImportanceSection
    from diffc_export.events import Work


@dataclass(frozen=True)
class Importance:
    """The outcome of a score.

    Attributes:
        scores: Unit's name -> float64 (C,), one for each of its channels; higher is more important.
        why: What plan.json says of how they came about: the loss curve, the timesteps, ...
    """

    scores: Mapping[str, NDArray[np.float64]]
    why: JsonObject = field(default_factory=dict)


@dataclass
class RowLimit:
    """How many rows of a batch fit into memory at once; None: no limit is known yet."""

    rows: int | None = None


@dataclass(frozen=True)
class Subject:
    """What importance is measured on.

    Attributes:
        denoiser: The model, on the device to compute on, in evaluation mode.
        clean: Samples x_0 and their conditions.
        groups: The groups of channels to score.
        branches: What could be left out whole. A score may rank some too: one number for each by
            its name; a branch without one stays.
        limit: Shared by all passes, so that the first pass that runs out of memory sets it for all.
        by_block: Where gradients go of a network whose blocks are worked one at a time; None: the
            whole network has them.
        records: The folder in which passes that are done are kept for a run that goes on; None:
            they are not.
    """

    denoiser: Denoiser
    clean: CleanSet
    groups: Sequence[Group]
    branches: Sequence[Branch] = ()
    limit: RowLimit = field(default_factory=RowLimit)
    by_block: GradientSums | None = None
    records: Path | None = None


class Score(ABC):
    """One way to rank units. Its file sets ``SCORE`` to an instance."""

    @abstractmethod
    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        """Score every channel of every group of ``subject``.

        Args:
            subject: The model, its data and its groups.
            options: The recipe's ``prune.importance``. A score ignores what it has no use for.
            seed: Decides everything random.

        Yields:
            Progress, for the terminal.

        Returns:
            The scores. For ``--allocate global`` they must be comparable between groups.
        """
