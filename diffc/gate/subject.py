"""The two sides of a check: an output folder, an engine folder, or a stored baseline each.

Each becomes a ``CheckedSide``: its compressed engines, and what is known of the model and the
machine. pairing.py says which engines of two sides are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.errors import InputError
from diffc.follows import check_engine
from diffc.gate.baseline import MANIFEST, Baseline, StoredFigures, is_baseline
from diffc.judged import find_loop
from diffc.measure.frontier.results import Frontier
from diffc.measure.results import at_working
from diffc.output import LOCK, is_output, locked_recipe, read_lock
from diffc.recipe import CheckSection
from diffc.report.current import current_report
from diffc.report.model import Report
from diffc_export.targets.engine import NAME, EngineInfo, read_info
from diffc_runtime.engine_folder import check_files
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop


@dataclass(frozen=True)
class CheckedEngine:
    """One engine.

    Attributes:
        folder: The engine folder.
        info: The content of its engine.json.
        reference: The file of torch's outputs at its inputs, where that is known.
        loop: What its images are made with; None where its run is not known.
    """

    folder: Path
    info: EngineInfo
    reference: Path | None
    loop: Loop | None = None

    @property
    def name(self) -> str:
        """'ort-cpu fp32'."""
        return f"{self.info.target} {self.info.precision_asked}"


@dataclass(frozen=True)
class CheckedSide:
    """One side of a check.

    Attributes:
        path: Where it lies.
        kind: ``output``, ``engine``, ``baseline`` or ``report``.
        engines: Its compressed engines.
        model: The model's name, for people.
        digest: Of the dense model that it was made from, where known.
        class_name: Of its denoiser, where known.
        environment: Of the machine on which its figures were measured, where known.
        quality: The figures of its samples.
        frontiers: Loops of both sides in time and quality, for each target.
        figures: The figures that were measured then.
        options: The ``check`` section of its recipe.
    """

    path: Path
    kind: str
    engines: tuple[CheckedEngine, ...]
    model: str
    digest: str | None = None
    class_name: str = ""
    environment: JsonObject | None = None
    quality: JsonObject | None = None
    frontiers: tuple[Frontier, ...] = ()
    figures: tuple[StoredFigures, ...] = ()
    options: CheckSection | None = None


def open_side(path: Path) -> CheckedSide:
    """Open what ``path`` holds.

    Raises:
        InputError: It is nothing that can be checked.
    """
    if (path / NAME).is_file():
        return _of_engine(path)
    if is_baseline(path):
        return _of_baseline(path)
    if is_output(path):
        return _of_output(path)
    if not path.exists():
        raise InputError(
            f"there is nothing at {path}",
            hint="give an output folder, an engine folder or a baseline (diffc baseline save OUT)",
        )
    if path.suffix == ".json":
        raise InputError(
            f"{path} is a file: a folder with engines is measured again",
            hint="--baseline-report takes a report.json",
        )
    holds = "is empty" if path.is_dir() and not any(path.iterdir()) else "holds nothing to check"
    raise InputError(
        f"{path} {holds}: no {LOCK}, no {NAME}, no {MANIFEST}",
        hint="give an output folder of diffc compile, an engine folder or a stored baseline",
    )


def open_report(path: Path) -> CheckedSide:
    """Open the figures of a report.json or of a stored baseline, without any engine."""
    if is_baseline(path):
        return _of_baseline(path)
    report = Report.read(path)
    return CheckedSide(
        path=path,
        kind="report",
        engines=(),
        model=f"{report.model.name} ({report.model.class_name})",
        digest=report.digest or _digest_beside(path if path.is_dir() else path.parent),
        class_name=report.model.class_name,
        environment=report.environment,
        quality=report.quality,
        figures=tuple(StoredFigures.of(result) for result in at_working(report.targets)),
    )


def _of_output(out: Path) -> CheckedSide:
    model = read_lock(out)["model"]
    folders = sorted((out / "engines").glob(f"*/compressed/{NAME}"))
    if not folders:
        raise InputError(f"{out} holds no engines", hint=f"diffc build {out} makes them")
    report = current_report(out)[0] if (out / "report.json").is_file() else None
    return CheckedSide(
        path=out,
        kind="output",
        engines=tuple(_engine(path.parent) for path in folders),
        model=f"{model['name']} ({model['class_name']})",
        digest=model["digest"],
        class_name=model["class_name"],
        environment=report.environment if report else None,
        quality=report.quality if report else None,
        frontiers=tuple(report.frontiers) if report else (),
        options=locked_recipe(out).check,
    )


def _of_engine(folder: Path) -> CheckedSide:
    engine = _engine(folder)
    class_name = str(engine.info.source.get("class_name", ""))
    home = engine.folder.parent.parent.parent  # of HOME/engines/TARGET/SIDE
    return CheckedSide(
        folder, "engine", (engine,), class_name, _digest_beside(home), class_name=class_name
    )


def _digest_beside(folder: Path) -> str | None:
    """The dense model's digest, where ``folder`` is an output folder or a stored baseline."""
    if is_output(folder):
        return str(read_lock(folder)["model"]["digest"])
    return Baseline.read(folder).digest if is_baseline(folder) else None


def _of_baseline(folder: Path) -> CheckedSide:
    baseline = Baseline.read(folder)
    loop = None if baseline.loop is None else Loop.parse(baseline.loop)
    return CheckedSide(
        path=folder,
        kind="baseline",
        engines=tuple(_engine(folder / name, loop) for name in baseline.engines),
        model=baseline.model,
        digest=baseline.digest,
        environment=baseline.environment,
        quality=baseline.quality,
        figures=tuple(baseline.figures),
    )


def _engine(path: Path, loop: Loop | None = None) -> CheckedEngine:
    """The engine of a folder, its files checked, with the reference beside its ONNX.

    Its loop is that of the output folder in which it lies, where none is given.

    Raises InputError for one that is damaged, or is not of what its output folder holds now.
    """
    check_engine(path)
    folder = path.resolve()
    info = read_info(folder)
    check_files(folder, info.files)
    place = folder.parent.parent.parent / "onnx" / folder.name / "reference.safetensors"
    home = folder.parent.parent.parent
    if loop is None and is_output(home):
        loop = find_loop(home, folder.name, info.source.get("scheduler") or {})
    return CheckedEngine(folder, info, place if place.is_file() else None, loop)
