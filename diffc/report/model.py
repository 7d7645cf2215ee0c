"""The content of report.json. Every number was measured or counted; others are absent."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffc.errors import InputError
from diffc.measure.anchors import Anchors
from diffc.measure.frontier.results import Frontier
from diffc.measure.results import Ladder, PrecisionChoice, Served, TargetResult
from diffc.report.records import (
    AsRecorded,
    BlockLocalRecord,
    DataRecord,
    DistillRecord,
    EnvironmentRecord,
    LoopDistillRecord,
    PlanRecord,
    QualityRecord,
    RepairRecord,
)

SCHEMA_VERSION = 3
"""3: ``repair``, ``evaluations`` and ``then``, and ``frontiers`` in the place of ``anchors``. 2:
``anchors``, and in ``quality`` ``each`` (the value of every pair) and ``prompts``. Reports of
versions 1 and 2 are read as they are."""


class _ReportPart(BaseModel):
    # the report builds one validator of all its parts when it is first used
    model_config = ConfigDict(extra="forbid", defer_build=True)


class ModelFigures(_ReportPart):
    """One model.

    Attributes:
        name: The model's name.
        class_name: The class in its config.json.
        params: The number of parameters.
        macs: Of one call with one sample, attention's products included. A step with guidance makes
            two calls.
        bytes: The size of its weights' files; None where the folder is not here.
        dtype: Of most weights in these files, such as fp16; None where that is not known.
    """

    name: str
    class_name: str
    params: int
    macs: float
    bytes: int | None = None
    dtype: str | None = None


class LoraFigures(_ReportPart):
    """A LoRA that is fused into the models of the report.

    Attributes:
        name: Its file's name.
        weight: The factor of its changes.
        sha256: Of the file; with peft's adapter_config.json where there is one.
        late: True if it was fused after the compression, cut by the plan.
        left_out: Layers that it changes in the dense model, and that the compressed one lacks.
    """

    name: str
    weight: float
    sha256: str
    late: bool = False
    left_out: list[str] = Field(default_factory=list)


class StageFigures(_ReportPart):
    """One stage of the run.

    Attributes:
        name: The stage's name.
        seconds: How long the stage took when it last ran.
        cached: True if this run reused an earlier run's result.
        peak_rss_bytes: The peak memory of its process.
    """

    name: str
    seconds: float
    cached: bool
    peak_rss_bytes: int


class EncoderEngine(_ReportPart):
    """A text encoder's engine.

    Attributes:
        target: The target.
        precision: What the engine was seen to compute in.
        bytes: The size of its files.
        error: The largest relative L2 error to torch, of any output; None where it does not run.
        notes: Why it has another precision than the recipe's.
    """

    target: str
    precision: str | None = None
    bytes: int | None = None
    error: float | None = None
    notes: list[str] = Field(default_factory=list)


class EncoderFigures(_ReportPart):
    """A text encoder of the pipeline, or its VAE's encoder: exported, and not cut.

    Attributes:
        name: A text encoder's name in the pipeline; ``encoder`` for the VAE's.
        params: The number of its parameters.
        engines: One for each target.
    """

    name: str
    params: int | None = None
    engines: list[EncoderEngine] = Field(default_factory=list)


class TextFigures(_ReportPart):
    """What turns prompts into conditions.

    Attributes:
        encoders: The text encoders that became engines.
        notes: What stays out, and why.
    """

    encoders: list[EncoderFigures] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Evaluation(_ReportPart):
    """Samples that were judged once more, in another way than the run's own.

    Attributes:
        name: The stage's; OUT/evals has a folder of the part behind the dash, with the pictures.
        quality: Figures as in the report's ``quality``.
    """

    name: str
    quality: AsRecorded[QualityRecord | None] = None


class Report(_ReportPart):
    """report.json.

    Attributes:
        schema_version: The version of this layout.
        diffc: The version of diffc that wrote the report.
        created: When, in UTC.
        command: The command of the run; None for a run from Python.
        then: The commands that changed the run or added to it later, in order.
        notes: Notes of the checks before the first stage.
        digest: A hash of the dense model's configs and weights; None in older reports.
        model: The dense model.
        compressed: The compressed model.
        loras: The LoRAs that both have.
        plan: plan.json without the indices of channels.
        data: The clean samples, and notes on how they were taken.
        repair: The repair right after the cut.
        block_local: What each block learnt alone; None where none did.
        distillation: The training run.
        loop_distillation: The one after it, for the loops that are served; None for a student of
            all noise levels.
        stages: Every stage of the run, in order.
        targets: One result for each target, resolution and batch size.
        pipeline: The whole sampling loop, one result for each target.
        choices: The precision of each target that chose one by measuring.
        ladders: Where the speed-up comes from, for each target and batch size.
        served: The loop through an inference server, for each target and side.
        quality: Figures of the samples, with sampler, steps, seeds and n.
        evaluations: The same in other ways, by ``diffc eval``; the last one is the newest.
        frontiers: Loops of both sides in time and quality, for each target that was timed.
        anchors: Samples of the dense model with fewer steps, judged as the compressed model's are,
            for each target; in reports of version 2 alone.
        texts: The text encoders; None for a model without, and where they stay with the caller.
        vae_encoder: The VAE's encoder; None for a model of pixels, and in older reports.
        environment: The machine of the last target's figures.
        price_per_hour: What this machine costs an hour, as given to ``diffc report``.
    """

    schema_version: int = SCHEMA_VERSION
    diffc: str
    created: str
    command: str | None = None
    then: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    digest: str | None = None
    model: ModelFigures
    compressed: ModelFigures | None = None
    loras: list[LoraFigures] = Field(default_factory=list)
    plan: AsRecorded[PlanRecord | None] = None
    data: AsRecorded[DataRecord | None] = None
    repair: AsRecorded[RepairRecord | None] = None
    block_local: AsRecorded[BlockLocalRecord | None] = None
    distillation: AsRecorded[DistillRecord | None] = None
    loop_distillation: AsRecorded[LoopDistillRecord | None] = None
    stages: list[StageFigures] = Field(default_factory=list)
    targets: list[TargetResult] = Field(default_factory=list)
    pipeline: list[TargetResult] = Field(default_factory=list)
    choices: list[PrecisionChoice] = Field(default_factory=list)
    ladders: list[Ladder] = Field(default_factory=list)
    served: list[Served] = Field(default_factory=list)
    quality: AsRecorded[QualityRecord | None] = None
    evaluations: list[Evaluation] = Field(default_factory=list)
    frontiers: list[Frontier] = Field(default_factory=list)
    anchors: list[Anchors] = Field(default_factory=list)
    texts: TextFigures | None = None
    vae_encoder: EncoderFigures | None = None
    environment: AsRecorded[EnvironmentRecord | None] = None
    price_per_hour: float | None = None

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a report.

        Args:
            path: A report.json, or an output folder.

        Raises:
            InputError: There is no report, or it does not follow the schema.
        """
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

    def __repr__(self) -> str:
        """One line, the one that ends a run; ``model_dump`` has everything."""
        from diffc.report.verdict import summary

        return f"<Report of {summary(self)}>"

    __str__ = __repr__

    @property
    def failed(self) -> list[TargetResult]:
        """Targets whose engines do not compute what torch computes."""
        return [result for result in self.targets if result.parity and not result.parity.passed]
