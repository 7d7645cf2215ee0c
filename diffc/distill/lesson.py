"""What a run teaches: the data of each step and their loss. The run itself knows neither.

all_steps.py   all noise levels, beside the dense model
loop/lesson.py the steps of a loop
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffc.models.families.base import Family


class Rows(Protocol):
    """One process's rows of one step."""

    def __len__(self) -> int:
        """How many rows."""

    def pieces(self, n: int) -> Sequence[Rows]:
        """``n`` parts, equal but for the last ones."""


Drawn = TypeVar("Drawn", bound=Rows)


class Lesson(Protocol, Generic[Drawn]):
    """What a student learns from, and by which loss.

    ``draw`` depends on its arguments alone, so that a resumed run needs no generator's state and
    several processes see together what one sees.
    """

    @property
    def network(self) -> nn.Module | None:
        """The dense network that works beside the student; None where none does."""

    @property
    def family(self) -> Family:
        """Of the student's class."""

    def digests(self) -> Iterable[bytes]:
        """What identifies the data."""

    def open(self, student: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Prepare for a student that is on ``device``; its forward passes run in ``dtype``.

        Dense networks are on ``device`` already where they are sharded, as the student is then.
        """

    def begin(self, student: nn.Module) -> list[str]:
        """Change the weights that training starts from, in place; returns notes.

        The first process alone calls it, or every process where the student is sharded.
        """

    def draw(self, step: int, rows: range) -> Drawn:
        """The rows ``rows`` of step ``step``'s global batch, on the device."""

    def loss(self, model: nn.Module, batch: Drawn) -> Tensor:
        """The mean loss of ``batch``, of which ``model`` is the student as accelerate has it."""

    def forget(self) -> None:
        """Drop what a pass left that did not come to its loss."""

    def close(self) -> None:
        """Take out of the networks what ``open`` put in."""


def row_in_epochs(number: int, rows: int, *key: int) -> int:
    """Return the row that the ``number``-th place of all epochs has; each is a new permutation.

    Args:
        number: A place, counted over all batches and epochs from 0.
        rows: How many rows an epoch has.
        key: What the permutations are drawn from, such as the seed and a stream of its own.
    """
    epoch, place = divmod(number, rows)
    return int(_permutation(rows, (*key, epoch))[place])


@lru_cache(maxsize=8)
def _permutation(rows: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(rows)


def split(rows: int, n: int) -> Iterator[tuple[int, int]]:
    """Yield the begin and the end of each of ``n`` parts of ``rows`` rows, without empty ones."""
    edges = [rows * k // n for k in range(n + 1)]
    yield from ((a, b) for a, b in pairwise(edges) if b > a)
