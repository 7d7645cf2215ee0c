"""The stage that finds where the speed-up comes from: see diffc.measure.explain.

Its torch rungs need the training packages and the dense model. Where either is missing, as on a
target machine that OUT was copied to, they are left out with the reason; the engines' rungs stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diffc.errors import InputError
from diffc.models.shipped import is_shipped
from diffc.output import onnx_folder, read_lock
from diffc.recipe import BuildSection, MeasureSection, Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput, SectionInput
from diffc.stage_outcomes import ExplainOutcome
from diffc.stages.bench import MachineInput, engine_inputs, reference_inputs, timing_options
from diffc.stages.build import torch_model
from diffc.stages.precision import onnx_digest
from diffc_export.cache import cache_folder
from diffc_export.events import Work
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from diffc.measure.explain import Step

_MOST_ROUNDS, _MOST_SECONDS, _WARM_UP = 15, 2.0, 1.0


@dataclass(frozen=True)
class DenseModel:
    """The dense model, for torch to run.

    Attributes:
        name: What ``find`` takes: a folder, or ``demo``.
        digest: Of its config and weights when it was compressed.
        absent: Why torch cannot run it here; None when it can.
    """

    name: str
    digest: str
    absent: str | None


@dataclass(frozen=True)
class ExplainInputs:
    """What the ladder of one target follows from.

    Attributes:
        target: The target.
        engines: Side -> its engine folder.
        references: Side -> what torch gave.
        onnx: The dense model's ONNX folder, for rungs whose engine OUT does not have.
        model: The dense model, for the rungs that torch runs.
        options: How long to measure.
        build: How the engines were built.
        captured: Whether the engines run as CUDA graphs.
        fingerprint: The machine.
    """

    target: str
    engines: dict[str, FileInput]
    references: dict[str, FileInput]
    onnx: FileInput
    model: DenseModel
    options: SectionInput[MeasureSection]
    build: SectionInput[BuildSection]
    captured: bool
    fingerprint: MachineInput


class RungEngines(Protocol):
    """What engines of the dense model are built from for rungs that OUT holds no engine of.

    The attributes are those of ``ExplainInputs``.
    """

    @property
    def target(self) -> str: ...
    @property
    def onnx(self) -> FileInput: ...
    @property
    def model(self) -> DenseModel: ...
    @property
    def build(self) -> SectionInput[BuildSection]: ...


def dense_model(out: Path) -> DenseModel:
    """The model that OUT was compressed from, for torch to run."""
    model = read_lock(out)["model"]
    return DenseModel(torch_model(out, "dense"), str(model["digest"]), why_no_torch(model))


def rung_build(recipe: Recipe) -> SectionInput[BuildSection]:
    """How the engines of one target were built."""
    return SectionInput(recipe.build, without=("target", "each"))


def explain_stage(
    out: Path, recipe: Recipe, name: str
) -> Stage[ExplainInputs, ExplainOutcome] | None:
    """The ladder of one target; None where it is not wanted, or where its engines cannot run."""
    from diffc.measure.environment import read_environment
    from diffc_export.targets import target

    chosen = target(name)
    if chosen.facts.runs_torch or recipe.measure.explain == "off" or not chosen.status().runnable:
        return None
    dense = dense_model(out)
    onnx = onnx_folder(out, "dense")
    inputs = ExplainInputs(
        target=name,
        engines=engine_inputs(out, name),
        references=reference_inputs(out),
        onnx=FileInput(onnx, onnx_digest(onnx)),
        model=dense,
        options=timing_options(recipe),
        build=rung_build(recipe),
        captured=captures(name, recipe),
        fingerprint=MachineInput(read_environment()),
    )
    packages = () if dense.absent else ("torch", "diffusers")  # what is listed here is imported
    return Stage(f"explain-{name}", 6, inputs, explain, ExplainOutcome, packages=packages)


def explain(inputs: ExplainInputs, folder: StageFolder) -> Work[ExplainOutcome]:
    """Build the rungs that OUT does not have, and time all of them in turn."""
    from diffc.measure import explain as ladder
    from diffc.measure.engines import MeasureOptions
    from diffc.measure.latency import LatencyOptions

    options, build = inputs.options.section, inputs.build.section
    timing = LatencyOptions(
        rounds=min(options.runs, _MOST_ROUNDS),
        seconds=min(options.seconds, _MOST_SECONDS),
        most_seconds=60.0,
        warmup_seconds=_WARM_UP,
    )
    references = {side: file.path for side, file in inputs.references.items()}
    measure = MeasureOptions(threads=build.threads, latency=timing, references=references)
    steps = yield from ladder_steps(inputs, folder.scratch)
    ladders = yield from ladder.explain(steps, build.batch, measure)
    return ExplainOutcome(ladders=ladders)


def why_no_torch(model: JsonObject) -> str | None:
    """Why the dense model cannot be run in torch here, by what is cheap to see; None when it can.

    model: as recipe.lock.yaml has it.
    """
    reason = why_no_torch_here()
    if reason is not None:
        return reason
    if not is_shipped(str(model["name"])) and not Path(model["folder"]).is_dir():
        return f"the dense model is not on this machine ({model['folder']})"
    return None


def why_no_torch_here() -> str | None:
    """Why torch runs no model on this machine; None where it does."""
    from diffc.torch_target import TARGET as TORCH

    status = TORCH.status()
    return None if status.runnable else status.reason


def ladder_steps(inputs: ExplainInputs, scratch: Path) -> Work[list[Step]]:
    """Every rung in order; engines that OUT does not hold are built into ``scratch``."""
    from diffc.measure.explain import Step
    from diffc.measure.results import PRUNING

    precision, graphs = inputs.build.section.precision, inputs.captured
    dense, small = (inputs.engines[side].path for side in ("dense", "compressed"))
    steps = yield from _torch_steps(inputs, scratch)
    plain = dense
    if precision != "fp32":
        plain = yield from plain_engine(inputs, scratch / "fp32")
    steps.append(Step("dense engine, fp32", "engine", plain, captured=not graphs))
    if precision != "fp32":
        step = Step(f"dense engine, {precision}", "precision", dense, captured=not graphs)
        steps.append(step)
    captured = ", captured" if graphs else ""
    if graphs:
        steps.append(Step(f"dense engine, {precision}{captured}", "graph capture", dense))
    steps.append(Step(f"compressed engine, {precision}{captured}", PRUNING, small))
    return steps


def captures(name: str, recipe: Recipe) -> bool:
    """Whether this target's engines run as CUDA graphs in a run of ``recipe``."""
    from diffc_export.targets import target

    graphs = target(name).facts.graphs
    single = len(set(recipe.build.batch)) == 1 and not recipe.export.sizes
    return graphs == "always" or (graphs == "one shape" and single)


def _torch_steps(inputs: ExplainInputs, scratch: Path) -> Work[list[Step]]:
    """torch eager, and compiled where that was asked for: it takes a minute to compile."""
    from diffc.measure.explain import Step

    steps = []
    variants = {"eager": "", "compiled": "compiling"}
    if inputs.options.section.explain != "full":
        del variants["compiled"]
    for variant, cause in variants.items():
        label = f"torch {variant}, fp32"
        folder, reason = scratch / f"torch-{variant}", inputs.model.absent
        if reason is None:
            reason = yield from torch_engine(inputs, variant, folder)
        steps.append(Step(label, cause, None if reason else folder, absent=reason))
    return steps


def torch_engine(of: RungEngines, variant: str, folder: Path) -> Work[str | None]:
    """Build torch's engine folder of the dense model; why not, where it is another model now."""
    from diffc.torch_target import TARGET as TORCH
    from diffc_export.targets.base import BuildOptions

    build, model = of.build.section, of.model
    options = BuildOptions(
        batch=build.batch, threads=build.threads, model=model.name, variant=variant
    )
    try:
        info = yield from TORCH.build(of.onnx.path, options, folder)
    except InputError as error:
        return str(error)
    if info.details["digest"] != model.digest:
        return f"the model at {model.name} is not the one that was compressed any more"
    return None


def plain_engine(of: RungEngines, folder: Path) -> Work[Path]:
    """The dense engine in fp32, for a run that was asked for another precision."""
    from diffc_export.targets import target
    from diffc_export.targets.base import BuildOptions

    build = of.build.section
    options = BuildOptions(
        batch=build.batch,
        one_profile=build.one_profile,
        threads=build.threads,
        precision="fp32",
        cache=cache_folder() / "timing",
    )
    yield from target(of.target).build(of.onnx.path, options, folder)
    return folder
