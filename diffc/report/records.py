"""The stages' records as report.json holds them: plan, data, distillation, quality, machine.

Only the fields that reports show are typed. All others stay in report.json as they are, so that a
report of another diffc is read whole. Reading checks none of them: a section that lacks a field
says so in its place, and the rest of the report is shown. So a record is no ``StageOutcome``, which
is what this diffc writes, checked; tests/report/test_records.py holds the fields of both together.
"""

from __future__ import annotations

from copy import copy
from typing import Annotated, TypeAlias, TypeVar

from pydantic import ConfigDict, PlainSerializer, WrapValidator

# pydantic takes typing's own only from Python 3.12 on; it brings typing_extensions itself
from typing_extensions import TypedDict

from diffc_runtime.json_types import JsonDict

T = TypeVar("T")


def _copied(value: object, _check: object) -> object:
    """A copy of a record, without a check of its fields."""
    return copy(value)


def _unchanged(value: object) -> object:
    return value


AsRecorded: TypeAlias = Annotated[T, WrapValidator(_copied), PlainSerializer(_unchanged)]
"""A record that is read and written as it is."""
QualityRecord: TypeAlias = JsonDict
"""Figure by metric, None where the images have none, and under ``absent`` the reasons by metric.

A figure of pairs has ``mean`` and ``ci95``; a distance has ``dense`` and ``compressed``, ``se`` by
side, ``features`` and ``reference``. Each has sampler, steps, spacing, seeds, guidance and n.
"""


class _Record(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]


class GroupRecord(_Record, total=False):
    """One unit of plan.json (format 1 calls it a group), without the indices of its channels.

    Attributes:
        name: The layer that gives the unit its name.
        kind: What the unit is: channels, heads, a whole branch or block.
        size: The dense width; 1 for a branch or block.
        kept: The width that is left; 0 for a branch or block that is left out.
        step: What widths are a multiple of.
        lost: The share of the unit's importance that was cut away.
    """

    name: str
    kind: str
    size: int
    kept: int
    step: int
    lost: float | None


class CurveRecord(_Record, total=False):
    """L_t / L_max at some timesteps t."""

    t: list[float]
    relative_loss: list[float]


class TimestepsRecord(_Record, total=False):
    """of: the number of training timesteps. share: the share of them that counts."""

    of: int
    share: float | None


class ImportanceRecord(_Record, total=False):
    """How importance came about.

    Attributes:
        method: The score's name.
        threshold: T: timesteps with L_t / L_max above it count.
        curve: The relative loss.
        timesteps: How many count.
        chosen_t: S, as ranges of timesteps, both ends included.
    """

    method: str
    threshold: float | None
    curve: CurveRecord
    timesteps: TimestepsRecord
    chosen_t: list[tuple[float, float]]


class ReasonsRecord(_Record, total=False):
    """What a plan was made from.

    Attributes:
        cut: What could go: width, depth, or both.
        importance: How the channels were scored, and which timesteps counted.
        allocate: How the ratio was spread over the units.
        allocated_since: Why so, where the run itself chose that.
    """

    cut: str
    importance: ImportanceRecord
    allocate: str
    allocated_since: str


class PlanRecord(_Record, total=False):
    """plan.json, without the indices of channels."""

    groups: list[GroupRecord]
    why: ReasonsRecord


class DataRecord(_Record, total=False):
    """The clean samples: where they came from, in words, and notes on how they were taken."""

    origin: str
    notes: list[str]


class RepairErrors(_Record, total=False):
    """Mean squared errors of the implied noise on held-out rows."""

    to_dense: float
    to_noise: float


class RepairedLayerRecord(_Record, total=False):
    """One layer: its relative squared error on held-out rows, and its ridge, None if it kept its
    weights.
    """

    name: str
    before: float
    after: float
    ridge: float | None


class RepairRecord(_Record, total=False):
    """The repair right after the cut.

    Attributes:
        is_used: False if the cut model was left as it was.
        layers: Every layer that could be mended.
        left_alone: Name -> why a layer was left alone.
        dense: Errors of the dense network.
        cut: Of the cut one.
        repaired: Of the repaired one.
        samples: How many noised samples were used.
        notes: What the user should know.
    """

    is_used: bool
    layers: list[RepairedLayerRecord]
    left_alone: dict[str, str]
    dense: RepairErrors | None
    cut: RepairErrors | None
    repaired: RepairErrors | None
    samples: int
    notes: list[str]


class LocalBlockRecord(_Record, total=False):
    """One block that was trained alone: its relative squared error on held-out rows."""

    name: str
    before: float | None
    after: float | None
    is_used: bool


class BlockLocalRecord(_Record, total=False):
    """Block-local distillation: each block learnt from the dense network's activations.

    Attributes:
        is_used: False if the network was left as it was.
        blocks: Every block that was trained.
        dense: Errors of the dense network.
        before: Of the cut one, repaired.
        after: Of the same with what its blocks learnt.
        samples: How many noised samples were used.
        steps: Steps of each block.
        notes: What the user should know.
    """

    is_used: bool
    blocks: list[LocalBlockRecord]
    dense: RepairErrors | None
    before: RepairErrors | None
    after: RepairErrors | None
    samples: int
    steps: int
    notes: list[str]


class QualityCurvePoint(_Record, total=False):
    """SSIM to the dense model's samples after so many steps of distillation."""

    step: int
    ssim: float | None


class DistillRecord(_Record, total=False):
    """A training run.

    Attributes:
        steps: The number of optimiser steps.
        is_used: False where the model from before the training was the better one, and was taken.
        losses: (step, loss).
        quality: SSIM on the way.
        images_per_second: Over all processes; None where no step was timed.
        precision: The format of the forward pass.
        notes: What was said on the way.
    """

    steps: int
    is_used: bool
    losses: list[tuple[float, float]]
    quality: list[QualityCurvePoint]
    images_per_second: float | None
    precision: str | None
    notes: list[str]


class LoopDistillRecord(DistillRecord, total=False):
    """A training run for the loops that are served.

    Attributes:
        loops: What the student serves, as texts.
        guidance: The scale of classifier-free guidance that it carries; 1 for none.
    """

    loops: list[str]
    guidance: float


class GpuRecord(_Record, total=False):
    """A GPU and its driver's version."""

    name: str
    driver: str


class EnvironmentRecord(_Record, total=False):
    """The machine, as ``diffc.measure.environment`` reads it.

    Attributes:
        cpu: The processor's name.
        cores: How many of its cores the process could use.
        memory_bytes: Of the whole machine.
        os: System and release.
        python: Python's version.
        load: The load averages over 1, 5 and 15 minutes.
        fingerprint: Two runs' times may be compared where it is equal.
        packages: Version by distribution.
        gpus: The GPUs.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    os: str
    python: str
    load: list[float] | None
    fingerprint: str
    packages: dict[str, str]
    gpus: list[GpuRecord]
