"""What report.json holds. Every number in it was measured or counted; what was not is absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffc.errors import InputError
from diffc.measure.explain import Ladder
from diffc.measure.results import PrecisionChoice, Served, TargetResult

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelFigures(_Part):
    """One model.

    macs: of one call with one sample, attention's products included; a step with guidance makes
    two calls. bytes: of its weights' files.
    """

    name: str
    class_name: str
    params: int
    macs: float
    bytes: int | None = None


class StageFigures(_Part):
    """One stage of the run. seconds: when it was done; cached: whether that was an earlier run."""

    name: str
    seconds: float
    cached: bool
    peak_rss_bytes: int


class Report(_Part):
    """report.json. See docs for each field; ``quality`` figures carry sampler, steps, seeds and n.

    notes: what the checks before the first stage had to say of the run.
    digest: of the dense model's configs and weights; None in reports of before it was kept.
    data: what the clean samples are, and notes on how they were taken.
    targets: one result per target, resolution and batch size. pipeline: the whole sampling loop per
    target.
    choices: of the precision, per target that was asked to choose. ladders: where the speed-up
    comes from, per target and batch size. served: the loop through an inference server, per target
    and side.
    """

    schema_version: int = SCHEMA_VERSION
    diffc: str
    created: str
    command: str | None = None
    notes: list[str] = Field(default_factory=list)
    digest: str | None = None
    model: ModelFigures
    compressed: ModelFigures | None = None
    plan: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    distillation: dict[str, Any] | None = None
    stages: list[StageFigures] = Field(default_factory=list)
    targets: list[TargetResult] = Field(default_factory=list)
    pipeline: list[TargetResult] = Field(default_factory=list)
    choices: list[PrecisionChoice] = Field(default_factory=list)
    ladders: list[Ladder] = Field(default_factory=list)
    served: list[Served] = Field(default_factory=list)
    quality: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Report:
        """report.json, or that of an output folder. Raises InputError when it is none."""
        path = path / "report.json" if path.is_dir() else path
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            hint = "diffc compile writes one into its output folder"
            raise InputError(f"there is no report at {path}", hint=hint) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{where}: {first['msg']}" if where else first["msg"]
            raise InputError(
                f"{path} is no report of this diffc: {reason}",
                hint="diffc compile writes one into its output folder",
            ) from None

    @property
    def failed(self) -> list[TargetResult]:
        """Targets whose engines do not compute what torch computes."""
        return [result for result in self.targets if result.parity and not result.parity.passed]
