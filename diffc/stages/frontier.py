"""The stage that measures what other loops of both sides are worth: see diffc.measure.frontier.

It comes after the times of single calls, which say how many dense steps fit into the time of a
compressed loop. Images are made by the engines, so that it needs neither model; the rungs that
torch runs are left out where torch or the dense model is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.data.loops import run_loops
from diffc.follows import still_follows
from diffc.measure.frontier.loops import FrontierLoops, WantedLoop, resolved, short
from diffc.measure.frontier.results import Frontier
from diffc.measure.quality.measuring import metric_packages
from diffc.measure.results import TargetResult, at_working
from diffc.output import SIDES, engine_folder, onnx_folder
from diffc.recipe import BuildSection, Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput, SectionInput
from diffc.stage_outcomes import FrontierOutcome
from diffc.stage_records import STATE, read_record
from diffc.stages.bench import MachineInput, engine_inputs
from diffc.stages.conditions import judged_conditions, null_conditions
from diffc.stages.distill import DISTILLED
from diffc.stages.explain import (
    DenseModel,
    dense_model,
    plain_engine,
    rung_build,
    torch_engine,
    why_no_torch_here,
)
from diffc.stages.images import ImageInput, image_input
from diffc.stages.judged_samples import JudgedSamples, judged_samples
from diffc.stages.precision import onnx_digest
from diffc.stages.samples import DENSE_SAMPLES
from diffc_export.events import Work
from diffc_export.targets.base import Array
from diffc_export.targets.engine import EngineInfo, read_info
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from diffc.measure.frontier.measuring import JudgedBy, SideWork

MOST_IMAGES = {"quick": 16, "full": 64}
"""Images of each loop, at most: as many as the samples stage made."""
OF_REFERENCE = {"quick": 4, "full": None}
"""Images of the reference loop itself; None: as many as of the others."""
ROUNDS = {"quick": 4, "full": 10}
MOST_SECONDS = {"quick": 60.0, "full": 600.0}


@dataclass(frozen=True)
class ImageRows:
    """The conditions of the images that the samples stage made, name -> rows (N, ...).

    Attributes:
        conditions: Of each image.
        unconditional: The values that guidance leads away from; empty for none.
    """

    conditions: Mapping[str, Array]
    unconditional: Mapping[str, Array]

    def keyed(self) -> object:
        """A hash of the values."""
        total = hashlib.sha256()
        for values in (self.conditions, self.unconditional):
            for name in sorted(values):
                total.update(f"{name} {values[name].dtype} {values[name].shape}".encode())
                total.update(values[name].tobytes())
        return total.hexdigest()


@dataclass(frozen=True)
class FrontierInputs:
    """What the frontier of one target follows from.

    Attributes:
        target: The target.
        engines: Side -> its engine folder.
        images: The reference loop's images.
        n: How many of them count.
        seed: Of their noise.
        loops: The loops that it is about.
        rows: The conditions of the images.
        image: What one timed image takes.
        metrics: The metrics that the run measures.
        onnx: The dense model's ONNX folder, for a rung whose engine OUT does not have.
        model: The dense model, for the rung that torch runs.
        build: How the engines were built.
        student: The compressed model before it learned its loops; None where it learned none.
        rungs: Whether the dense model is timed in torch too, and in fp32.
        fingerprint: The machine.
    """

    target: str
    engines: dict[str, FileInput]
    images: FileInput
    n: int
    seed: int
    loops: FrontierLoops
    rows: ImageRows
    image: ImageInput
    metrics: tuple[str, ...]
    onnx: FileInput
    model: DenseModel
    build: SectionInput[BuildSection]
    student: FileInput | None
    rungs: bool
    fingerprint: MachineInput


def frontier_stage(
    out: Path, recipe: Recipe, calls: Sequence[TargetResult]
) -> Stage[FrontierInputs, FrontierOutcome] | None:
    """The frontier of one target; None where it is not wanted, or nothing was timed or judged.

    Args:
        out: The output folder.
        recipe: The options of the run, of one target.
        calls: The times of single calls on that target.
    """
    from diffc.measure.environment import read_environment

    extent, images = recipe.measure.frontier, out / DENSE_SAMPLES
    timed = next((one for one in at_working(calls) if one.speedup is not None), None)
    if extent == "off" or timed is None or not images.is_file():
        return None
    judged = judged_samples(out)
    if judged is None:
        return None
    onnx = onnx_folder(out, "dense")
    n = min(MOST_IMAGES[extent], judged.n)
    inputs = FrontierInputs(
        target=timed.target,
        engines=engine_inputs(out, timed.target),
        images=FileInput.of(images),
        n=n,
        seed=judged.seed,
        loops=_loops(out, recipe, judged, timed),
        rows=image_rows(out, timed.target, judged.seed, n),
        image=image_input(out, recipe, timed.target),
        metrics=judged.metrics,
        onnx=FileInput(onnx, onnx_digest(onnx)),
        model=dense_model(out),
        build=rung_build(recipe),
        student=_student(out, recipe),
        rungs=recipe.measure.explain != "off",
        fingerprint=MachineInput(read_environment()),
    )
    packages = () if inputs.model.absent else ("torch", "diffusers")
    return Stage(
        f"frontier-{timed.target}",
        9,
        inputs,
        frontier,
        FrontierOutcome,
        packages=(*packages, *metric_packages(recipe.quality)),
    )


def _student(out: Path, recipe: Recipe) -> FileInput | None:
    """The compressed model before it learned its loops; None where it is not in OUT."""
    record = read_record(out / STATE / "distill.json")
    there = (out / DISTILLED).is_dir() and still_follows(out, ["distill"])
    if recipe.distill.aim != "loop" or record is None or not there:
        return None
    return FileInput(out / DISTILLED, record.key)


def _loops(out: Path, recipe: Recipe, judged: JudgedSamples, timed: TargetResult) -> FrontierLoops:
    """The loops of the samples, and the recipe's others, which no samples were made by."""
    assert timed.speedup is not None
    config = read_info(engine_folder(out, timed.target, "compressed")).source["scheduler"]
    others = run_loops(recipe, config, judged.reference.guidance or 1.0).loops[1:]
    return FrontierLoops(
        judged.reference,
        (*judged.own, *others),
        recipe.measure.frontier,
        1 / timed.speedup.median,
        learned=recipe.distill.aim == "loop",
    )


def image_rows(out: Path, name: str, seed: int, n: int) -> ImageRows:
    """The conditions of the first ``n`` images; empty for a model without."""
    import numpy as np

    info = read_info(engine_folder(out, name, "dense"))
    taken = [spec for spec in info.inputs if spec.kind == "condition"]
    given = judged_conditions(out, taken)
    if given is None:
        return ImageRows({}, {})
    rows = {name: np.asarray(value) for name, value in given(seed, n).items()}
    null = {  # one value stands for every image, also where it is as long as there are images
        name: np.broadcast_to(value, (n, *value.shape))
        for name, value in null_conditions(out, taken).items()
    }
    return ImageRows(rows, {**rows, **null} if null else {})


def frontier(inputs: FrontierInputs, folder: StageFolder) -> Work[FrontierOutcome]:
    """Sample, judge and time every loop of both sides."""
    from diffc.measure.frontier.judging import other_noise
    from diffc.measure.frontier.measuring import measure_points
    from diffc.measure.frontier.results import figure_of
    from diffc.measure.latency import LatencyOptions

    extent = inputs.loops.extent
    timing = LatencyOptions(
        rounds=ROUNDS[extent], seconds=0.0, most_seconds=MOST_SECONDS[extent],
        warmup_seconds=0.0,
    )  # fmt: skip
    judged = _judged_by(inputs)
    sides = yield from _sides(inputs, folder.scratch)
    measured = yield from measure_points(
        sides, inputs.image.options, judged, timing, inputs.build.section.threads
    )
    values = other_noise(judged.reference)
    other = figure_of(values) if values else None
    info = read_info(inputs.engines["dense"].path)
    return FrontierOutcome(
        frontier=Frontier(
            target=inputs.target,
            precision=info.precision_asked,
            batch=inputs.image.options.batch,
            reference=short(resolved(inputs.loops.reference, info.source["scheduler"])),
            seed=inputs.seed,
            n=len(judged.reference),
            points=measured.points,
            other_seed=other,
            noise=measured.noise,
            notes=[*inputs.image.options.notes, *measured.notes],
            details=measured.details,
        )
    )


def _judged_by(inputs: FrontierInputs) -> JudgedBy:
    import numpy as np
    from safetensors.numpy import load_file

    from diffc.measure.frontier.measuring import JudgedBy

    images = load_file(inputs.images.path)["dense"][: inputs.n].astype(np.float32)
    rows = inputs.rows
    return JudgedBy(
        images,
        inputs.seed,
        rows.conditions,
        rows.unconditional,
        inputs.metrics,
        of_reference=OF_REFERENCE[inputs.loops.extent],
    )


def _sides(inputs: FrontierInputs, scratch: Path) -> Work[list[SideWork]]:
    """Both engines' loops, after the rungs of the dense model where they are wanted."""
    from diffc.measure.frontier.measuring import SideWork

    dense, small = (read_info(inputs.engines[side].path) for side in SIDES)
    settings = served_settings(dense, inputs.image.options.decoder)
    of_dense = inputs.loops.of_dense(settings["scheduler"])
    sides: list[SideWork] = []
    if inputs.rungs:
        sides += yield from _rung_sides(inputs, settings, of_dense[:1], scratch)
    path = inputs.engines["dense"].path
    sides.append(SideWork("dense", path, settings, tuple(of_dense)))
    settings = served_settings(small, inputs.image.options.decoder)
    loops = tuple(inputs.loops.of_compressed(settings["scheduler"]))
    path = inputs.engines["compressed"].path
    before = [one for one in sides if one.side == "all-steps" and not one.absent]
    rungs = [one for one in loops if before and "own" not in one.roles and _is_rung(one, inputs)]
    judged = tuple(one for one in loops if one not in rungs)
    sides.append(SideWork("compressed", path, settings, judged))
    if rungs:  # their images are those of the student before it learned its loops
        sides.append(SideWork("compressed", path, settings, tuple(rungs), judged=False))
    return sides


def _is_rung(wanted: WantedLoop, inputs: FrontierInputs) -> bool:
    """Whether a compressed loop is there to show one change alone."""
    loops = inputs.loops
    rungs = (loops.reference, replace(loops.own[0], guidance=loops.reference.guidance))
    config = read_info(inputs.engines["compressed"].path).source["scheduler"]
    return wanted.loop in [resolved(one, config) for one in rungs]


def _rung_sides(
    inputs: FrontierInputs, settings: JsonDict, reference: Sequence[WantedLoop], scratch: Path
) -> Work[list[SideWork]]:
    """The reference loop by torch, and by the engine in fp32 where the run has another one."""
    from diffc.measure.frontier.measuring import SideWork

    sides, loops = [], tuple(reference)
    folder, reason = scratch / "eager", inputs.model.absent
    if reason is None:
        reason = yield from torch_engine(inputs, "eager", folder)
    engine = None if reason else folder
    sides.append(SideWork("eager", engine, settings, loops, judged=False, absent=reason))
    if inputs.build.section.precision != "fp32":
        plain = yield from plain_engine(inputs, scratch / "fp32")
        sides.append(SideWork("dense-fp32", plain, settings, loops, judged=False))
    if inputs.student is not None:
        sides.append((yield from _student_side(inputs, inputs.student, settings, scratch)))
    return sides


def _student_side(
    inputs: FrontierInputs, student: FileInput, settings: JsonDict, scratch: Path
) -> Work[SideWork]:
    """The compressed model before it learned its loops, by torch: for its images alone."""
    from diffc.measure.frontier.measuring import SideWork
    from diffc.models.source import find_source

    folder, reason = scratch / "all-steps", why_no_torch_here()
    if reason is None:
        model = DenseModel(str(student.path), find_source(student.path).digest, None)
        reason = yield from torch_engine(replace(inputs, model=model), "eager", folder)
    loops = tuple(inputs.loops.before_training(settings["scheduler"]))
    engine = None if reason else folder
    return SideWork("all-steps", engine, settings, loops, timed=False, absent=reason)


def served_settings(info: EngineInfo, decoder: Path | None) -> JsonDict:
    """pipeline.json's content, as a bundle of this engine has it."""
    from diffc.bundle.contents import BundleContents

    return BundleContents(Path(info.target), info.to_json(), (), decoder).settings()
