"""The result of each stage, typed: what its record holds as JSON, and what the report is made of.

A field without a value in an older record has its default; fields that were never set are left out
of the record, so that a record says nothing that its stage did not find out.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from diffc.measure.frontier.results import Frontier
from diffc.measure.results import Ladder, PrecisionChoice, Served, TargetResult
from diffc_runtime.json_types import JsonDict


class StageOutcome(BaseModel):
    """What a stage found out, beside its files."""

    # a run needs few of the outcomes: each builds its validator when it is first used
    model_config = ConfigDict(frozen=True, defer_build=True)

    def to_json(self) -> JsonDict:
        """The outcome as the stage's record holds it: the fields that were set."""
        whole = self.model_dump(mode="json")
        return {name: whole[name] for name in whole if name in self.model_fields_set}


class DataOutcome(StageOutcome):
    """Clean samples.

    Attributes:
        images: How many.
        origin: Where they came from, in words.
        null: The conditions that have a null value.
        guidance: The scale of classifier-free guidance of the run.
        notes: What the user should know of them.
        conditions: The conditions whose rows the user gave, or that were made of the images; the
            others were drawn.
        counts: How many images were read and skipped, in words; None where none were read.
    """

    images: int = 0
    origin: str = ""
    null: list[str] = Field(default_factory=list)
    guidance: float = 1.0
    notes: list[str] = Field(default_factory=list)
    conditions: list[str] = Field(default_factory=list)
    counts: str | None = None


class ImportanceOutcome(StageOutcome):
    """Scores. why: how they came about, for plan.json. groups: how many groups have some."""

    why: JsonDict = Field(default_factory=dict)
    groups: int = 0


class CostFigures(StageOutcome):
    """What one model costs.

    Attributes:
        params: How many parameters.
        macs: Of one call with one sample, attention's products included.
        macs_paper: The same by the counting of published tables.
    """

    params: int
    macs: float
    macs_paper: float | None = None


class PlanOutcome(StageOutcome):
    """The plan in figures.

    Attributes:
        dense, compressed: The costs before and after.
        groups: How many groups of channels there are.
        groups_cut: How many of them lose some.
        latency: What was measured for it; None where nothing was.
    """

    dense: CostFigures
    compressed: CostFigures
    groups: int = 0
    groups_cut: int = 0
    latency: JsonDict | None = None

    def cost(self, side: str) -> CostFigures:
        """The costs of the ``dense`` or the ``compressed`` model."""
        return self.dense if side == "dense" else self.compressed


class PruneOutcome(StageOutcome):
    """The cut model. params: how many are left."""

    params: int


class RepairedLayerFigures(StageOutcome):
    """What became of one layer that a repair looked at.

    Attributes:
        name: The layer.
        before: Its relative squared error to the dense layer on held-out rows, unrepaired.
        after: The same with what it has now; equal where it keeps its weights.
        ridge: None where it keeps its weights; of several blocks the largest.
        rows: How many rows fitted it.
        columns: How many inputs a row has, the bias included; of several blocks the most.
    """

    name: str
    before: float
    after: float
    ridge: float | None
    rows: int
    columns: int


class NetworkErrors(StageOutcome):
    """Of one network on held-out rows, as mean squared errors of the implied noise.

    Attributes:
        to_dense: Between its outputs and the dense model's.
        to_noise: Between its outputs and what a perfect model gives.
    """

    to_dense: float
    to_noise: float


class RepairOutcome(StageOutcome):
    """A repair; the fields are those of ``diffc.prune.repair.run.Repair``.

    Attributes:
        is_used: Whether there are new weights.
        layers: Every layer that could be mended.
        left_alone: Name -> why a layer that reads cut channels was left alone.
        dense: The errors of the dense network; None for no repair, as are the next two.
        cut: Of the cut one.
        repaired: Of the repaired one.
        samples: How many noised samples were used.
        notes: What the user should know.
    """

    is_used: bool
    layers: list[RepairedLayerFigures] = Field(default_factory=list)
    left_alone: dict[str, str] = Field(default_factory=dict)
    dense: NetworkErrors | None = None
    cut: NetworkErrors | None = None
    repaired: NetworkErrors | None = None
    samples: int = 0
    notes: list[str] = Field(default_factory=list)


class LocalBlockFigures(StageOutcome):
    """What became of one block that was trained alone.

    Attributes:
        name: The block.
        before: Its error on rows held out, as mean square over that of the dense block's output;
            None where it is not finite.
        after: The same after the training.
        is_used: Whether it has the new weights.
    """

    name: str
    before: float | None
    after: float | None
    is_used: bool


class BlockLocalOutcome(StageOutcome):
    """A block-local distillation; the fields are those of ``diffc.distill.block_local.run``.

    Attributes:
        is_used: Whether the network has new weights.
        blocks: Every block that was trained, in their order.
        dense: The errors of the dense network.
        before: Of the cut one, repaired, before the training.
        after: Of the same after it; None where no block came nearer.
        samples: How many noised samples were used.
        steps: Steps of each block.
        precision: What the blocks ran in.
        notes: What the user should know.
    """

    is_used: bool
    blocks: list[LocalBlockFigures] = Field(default_factory=list)
    dense: NetworkErrors | None = None
    before: NetworkErrors | None = None
    after: NetworkErrors | None = None
    samples: int = 0
    steps: int = 0
    precision: str | None = None
    notes: list[str] = Field(default_factory=list)


class QualityPoint(StageOutcome):
    """SSIM to the dense model's samples after so many steps."""

    step: int
    ssim: float


class DistillOutcome(StageOutcome):
    """A training run; the other fields are those of ``diffc.distill.run.DistillResult``.

    Attributes:
        is_used: False where the training made the model worse, so that the model is the one from
            before it.
    """

    steps: int
    is_used: bool = True
    losses: list[tuple[int, float]] = Field(default_factory=list)
    resumed_from: int = 0
    quality: list[QualityPoint] = Field(default_factory=list)
    images_per_second: float | None = None
    precision: str | None = None
    notes: list[str] = Field(default_factory=list)


class FusedLora(StageOutcome):
    """A LoRA in the compressed model.

    Attributes:
        name: Its file's name.
        weight: The factor of its changes.
        layers: How many layers of the denoiser it changes.
        left_out: Layers that it changes in the dense model, and that the compressed one lacks.
    """

    name: str
    weight: float
    layers: int
    left_out: list[str] = Field(default_factory=list)


class FuseOutcome(StageOutcome):
    """LoRAs that were fused after the compression; of those of text encoders alone, none."""

    loras: list[FusedLora] = Field(default_factory=list)


class TrajectoriesOutcome(StageOutcome):
    """The dense model's trajectories.

    Attributes:
        count: How many.
        steps: How many calls of the network each has; twice as many under guidance.
        guidance: The scale of classifier-free guidance that they were made with; 1 for none.
        calls: Calls with one sample that the process made itself, in this run.
        drawn: How many are the clean samples' own ways, which took no new calls.
    """

    count: int
    steps: int
    guidance: float = 1.0
    calls: int = 0
    drawn: int = 0


class LoopDistillOutcome(DistillOutcome):
    """A training run for loops.

    Attributes:
        loops: What the student serves, as texts; the first is judged and timed.
        guidance: The scale of classifier-free guidance that the student carries; 1 for none.
    """

    loops: list[str] = Field(default_factory=list)
    guidance: float = 1.0


class SamplesOutcome(StageOutcome):
    """Figures of quality by name, as the metrics give them; none where samples are no pictures."""

    model_config = ConfigDict(frozen=True, extra="allow")


class ExportOutcome(StageOutcome):
    """An ONNX folder. sha256: of the ONNX files. parameters: of the network."""

    sha256: str
    parameters: int


class PrecisionOutcome(StageOutcome):
    """What model.json says of a lower precision: ``precision``, ``kept_fp32``, its error."""

    model_config = ConfigDict(frozen=True, extra="allow")


class BuildOutcome(StageOutcome):
    """An engine. precision_found: what it was seen to compute in. engine_bytes: its files' size."""

    precision_found: str | None = None
    engine_bytes: int | None = None


class TextOutcome(StageOutcome):
    """How prompts become conditions.

    Attributes:
        encoders: The text encoders that become engines; empty where prompts stay with the caller.
        notes: What of the pipeline stays out, and why.
    """

    encoders: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class ComparedEngineOutcome(BuildOutcome):
    """An engine that is compared with torch: a text encoder's, or that of a part of the VAE.

    Attributes:
        errors: Output -> relative L2 error to torch; empty where it cannot run here.
        notes: Why it has another precision than the recipe's.
    """

    errors: dict[str, float] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class ChoiceOutcome(StageOutcome):
    """The precision that was taken for a target, and what was tried."""

    choice: PrecisionChoice


class BenchOutcome(StageOutcome):
    """Figures of one target.

    Attributes:
        targets: Of engine calls, one for each resolution and batch size.
        pipeline: Of whole images.
        environment: The machine, as diffc/measure/environment.py reads it.
    """

    targets: list[TargetResult]
    pipeline: TargetResult
    environment: JsonDict


class ExplainOutcome(StageOutcome):
    """Where one target's speed-up comes from, for each batch size."""

    ladders: list[Ladder]


class FrontierOutcome(StageOutcome):
    """Loops of both sides on one target, in time and quality."""

    frontier: Frontier


class ServeOutcome(StageOutcome):
    """The sampling loop through a server, for each side."""

    served: list[Served]
