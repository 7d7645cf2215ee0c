"""The precision stages: a lower precision written into the ONNX file. OUT/onnx/PRECISION/SIDE.

Only for targets that cannot be told the precision when they build (docs/architecture.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.errors import UnavailableError
from diffc.output import onnx_folder
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput, Unkeyed
from diffc.stage_outcomes import PrecisionOutcome
from diffc_export.events import Progress, Work
from diffc_export.targets.onnx_file import DESCRIPTION, REFERENCE
from diffc_runtime.files import file_digest
from diffc_runtime.machine.cpu import cores

EXACT = "fp32"
ORDER = (EXACT, "fp16", "bf16", "fp8", "int8")
"""From the most exact to the least."""
CALIBRATED = ("int8", "fp8")
"""Precisions whose scales follow from calls of the dense model."""


@dataclass(frozen=True)
class PrecisionInputs:
    """What the file in a lower precision follows from.

    Attributes:
        onnx: The ONNX folder in fp32, with what torch gave.
        calibration: That of the dense model, whose activations set the scales; None where the
            precision needs none.
        precision: The precision.
        written: The folder's name: the precision, or ``int8-asymmetric`` with zero points.
        side: ``dense`` or ``compressed``.
        threads: CPU threads of the calibration; None: the machine's cores.
    """

    onnx: FileInput
    calibration: FileInput | None
    precision: str
    written: str
    side: str
    threads: Unkeyed[int | None]


def precision_stage(
    out: Path, recipe: Recipe, name: str, side: str
) -> Stage[PrecisionInputs, PrecisionOutcome]:
    """The ONNX file of one side in the precision asked for, as target ``name`` wants it."""
    precision = recipe.build.precision
    written = precision_folder(name, precision)
    calibrated = precision in CALIBRATED
    inputs = PrecisionInputs(
        onnx=onnx_input(onnx_folder(out, side)),
        calibration=onnx_input(onnx_folder(out, "dense")) if calibrated else None,
        precision=precision,
        written=written,
        side=side,
        threads=Unkeyed(recipe.build.threads),
    )
    places = {side: f"onnx/{written}/{side}"}
    packages = ("onnx", "onnxruntime")
    label = f"precision-{written}-{side}"
    return Stage(label, 8, inputs, convert, PrecisionOutcome, places, packages)


def convert(inputs: PrecisionInputs, folder: StageFolder) -> Work[PrecisionOutcome]:
    """Write the ONNX folder in the precision."""
    from diffc_export.onnx.precision import convert_precision
    from diffc_export.onnx.quantize import QuantizeOptions, quantize

    precision, goal = inputs.precision, folder.out / inputs.side
    yield Progress(0, None, f"writing {precision} into the ONNX file")
    if inputs.calibration is not None:
        options = QuantizeOptions(
            threads=inputs.threads.value or cores(), asymmetric=inputs.written != precision
        )
        described = yield from quantize(
            inputs.onnx.path, goal, options, inputs.calibration.path, precision
        )
    else:
        described = convert_precision(inputs.onnx.path, goal, precision)
    facts = ("precision", "kept_fp32", f"{precision}_error")
    return PrecisionOutcome(**{name: described[name] for name in facts if name in described})


def tried_precisions(name: str, asked: str) -> tuple[str, ...]:
    """The precisions that engines are built in, the most exact first: ``auto`` tries all there are.

    Args:
        name: The target.
        asked: The precision, or ``auto``.
    """
    from diffc_export.targets import target

    if asked != "auto":
        return (asked,)
    try:
        has = target(name).precisions()
    except UnavailableError:  # whoever builds says so
        has = frozenset({EXACT})
    return tuple(precision for precision in ORDER if precision in has)


def precision_folder(name: str, precision: str) -> str:
    """The name of OUT/onnx/THIS/SIDE for target ``name``.

    ``int8-asymmetric`` where the target takes zero points, else the precision itself.
    """
    from diffc_export.targets import target

    return "int8-asymmetric" if precision == "int8" and target(name).facts.asymmetric else precision


def needs_file_of_its_own(name: str, precision: str) -> bool:
    """Whether the precision must be written into the ONNX file: the target cannot be told it."""
    from diffc_export.targets import target

    return precision != "fp32" and precision not in target(name).facts.hinted


def onnx_input(folder: Path) -> FileInput:
    """An ONNX folder with what torch gave, which precisions are calibrated and judged by."""
    reference = folder / REFERENCE
    digests = [onnx_digest(folder), file_digest(reference) if reference.is_file() else ""]
    return FileInput(folder, digests)


def onnx_digest(folder: Path) -> str:
    """What an ONNX folder is, for a stage's key: model.json, which has the ONNX file's hash.

    Engines carry it whole: the scheduler, the sizes that they serve, the guidance's null.
    """
    return file_digest(folder / DESCRIPTION)
