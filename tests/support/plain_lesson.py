"""The smallest lesson: a network of one layer learns numbers. Its runs take milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffc.data.randomness import keyed_noise
from diffc.distill.lesson import split
from diffc.distill.run import DistillResult, Run, TrainingSettings
from diffc.distill.train import train
from diffc.models.families.base import Family
from diffc.models.families.unet2d import FAMILY
from diffc.recipe.sections.training import TrainingSection
from diffc_export.events import Work

WIDTH = 16
"""As many rows as a matrix has at least that Muon takes."""


def student() -> nn.Module:
    """A layer whose weight, a matrix, comes first."""
    torch.manual_seed(0)
    return nn.Linear(WIDTH, WIDTH)


@dataclass(frozen=True)
class Numbers:
    """Rows: what the layer is given (B, WIDTH)."""

    given: Tensor

    def __len__(self) -> int:
        return len(self.given)

    def pieces(self, n: int) -> list[Numbers]:
        return [Numbers(self.given[a:b]) for a, b in split(len(self), n)]


class PlainLesson:
    """The layer is to give back the sum of what it was given; ``fault`` may change its output."""

    network: nn.Module | None = None
    family: Family = FAMILY

    def __init__(self, fault: Callable[[int, Tensor], Tensor] | None = None) -> None:
        self.fault, self.step = fault or (lambda _step, output: output), 0

    def digests(self) -> list[bytes]:
        return []

    def open(self, student: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        pass

    def begin(self, student: nn.Module) -> list[str]:
        return []

    def draw(self, step: int, rows: range) -> Numbers:
        self.step = step
        return Numbers(keyed_noise(((5, step, row) for row in rows), (WIDTH,)))

    def loss(self, model: nn.Module, batch: Numbers) -> Tensor:
        wanted = batch.given.sum(1, keepdim=True)
        return (self.fault(self.step, model(batch.given)) - wanted).square().mean()

    def forget(self) -> None:
        pass

    def close(self) -> None:
        pass


def options(**changes) -> TrainingSection:
    """Few, exact steps."""
    base = {"steps": 6, "batch": 4, "precision": "fp32", "checkpoint_every": 2, "warmup": 2}
    return TrainingSection.model_validate({**base, **changes})


def work(
    folder: Path, layer: nn.Module | None = None, fault=None, section: str = "distill", **changes
) -> Work[DistillResult]:
    """A run of the lesson."""
    how = TrainingSettings(options(**changes), folder, section=section)
    return train(PlainLesson(fault), student() if layer is None else layer, how)


def killed_at(step: int, folder: Path, **changes) -> None:
    """A run that ends at ``step``, behind the checkpoints before it."""
    running = work(folder, **changes)
    while next(running).done < step:
        pass
    running.close()


def started(folder: Path, fault=None, **changes) -> Run:
    """A run before its first step."""
    how = TrainingSettings(options(**changes), folder)
    return Run.start(PlainLesson(fault), student(), how)
