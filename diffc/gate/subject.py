"""What CANDIDATE and BASELINE may be: an output folder, an engine folder, or a stored baseline.

Each becomes a ``Subject``: its compressed engines, and what is known of the model and the machine.
``matched`` pairs two subjects' engines and refuses what cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffc.errors import InputError, NotComparable
from diffc.follows import check_engine
from diffc.gate.baseline import MANIFEST, Baseline, StoredFigures, is_baseline
from diffc.measure.environment import read_environment
from diffc.measure.results import at_working
from diffc.output import LOCK, is_output, locked_recipe, read_lock
from diffc.recipe import CheckOptions
from diffc.report.current import current_report
from diffc.report.model import Report
from diffc.targets.engine import NAME, EngineInfo, check_files, read_info

_MACHINE = ("cpu", "cores", "gpus")


@dataclass(frozen=True)
class Engine:
    """One engine. reference: what torch gave at its inputs, where that is known."""

    folder: Path
    info: EngineInfo
    reference: Path | None

    @property
    def name(self) -> str:
        """'ort-cpu fp32'."""
        return f"{self.info.target} {self.info.precision_asked}"


@dataclass(frozen=True)
class Subject:
    """One side of a check.

    digest: of the dense model it was made from, where known. environment: of the machine on which
    its figures were measured, where known. figures: those measured then.
    """

    path: Path
    kind: str
    engines: tuple[Engine, ...]
    model: str
    digest: str | None = None
    environment: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] | None = None
    figures: tuple[StoredFigures, ...] = ()
    options: CheckOptions | None = None


@dataclass(frozen=True)
class Pair:
    """A candidate and the baseline that it is judged against."""

    candidate: Engine
    baseline: Engine


def open_subject(path: Path) -> Subject:
    """What ``path`` holds. Raises InputError when it is nothing that can be checked."""
    if (path / NAME).is_file():
        return _of_engine(path)
    if is_baseline(path):
        return _of_baseline(path)
    if is_output(path):
        return _of_output(path)
    if not path.exists():
        raise InputError(f"there is nothing at {path}")
    held = "is empty" if path.is_dir() and not any(path.iterdir()) else "holds nothing to check"
    raise InputError(
        f"{path} {held}: no {LOCK}, no {NAME}, no {MANIFEST}",
        hint="give an output folder of diffc compile, an engine folder or a stored baseline",
    )


def open_report(path: Path) -> Subject:
    """The figures of a report.json or of a stored baseline, without any engine."""
    if is_baseline(path):
        return _of_baseline(path)
    report = Report.read(path)
    return Subject(
        path=path,
        kind="report",
        engines=(),
        model=report.model.name,
        environment=report.environment,
        quality=report.quality,
        figures=tuple(StoredFigures.of(result) for result in at_working(report.targets)),
    )


def matched(
    candidate: Subject, baseline: Subject, targets: Sequence[str]
) -> tuple[list[Pair], list[str]]:
    """The engines that both have, and a note for each that only one has.

    targets: those wanted; empty: all. Raises NotComparable, with both sides, when the models or the
    machines differ, or when no engine is on both sides.
    """
    check_model(candidate, baseline)
    check_machine(baseline)
    ours = {e.name: e for e in candidate.engines if not targets or e.info.target in targets}
    theirs = {e.name: e for e in baseline.engines if not targets or e.info.target in targets}
    pairs = [Pair(ours[name], theirs[name]) for name in ours if name in theirs]
    if not pairs:
        raise NotComparable(
            f"no engine is on both sides: {candidate.path} has {_listed(ours)}; "
            f"{baseline.path} has {_listed(theirs)}"
        )
    for pair in pairs:
        _check_pair(pair)
    return pairs, _only_once(candidate, ours, baseline, theirs)


def check_model(candidate: Subject, baseline: Subject) -> None:
    """Raise NotComparable when the two were made from different dense models."""
    if candidate.digest and baseline.digest and candidate.digest != baseline.digest:
        raise NotComparable(
            f"different models: candidate {_model(candidate)}, baseline {_model(baseline)}"
        )


def check_machine(baseline: Subject) -> None:
    """Raise NotComparable when the stored figures are of another processor, GPU or driver."""
    if baseline.environment is None or baseline.kind == "output":
        return
    here = read_environment().model_dump(mode="json")
    differ = {
        key: (_shown(baseline.environment[key]), _shown(here[key]))
        for key in _MACHINE
        if _lasting(baseline.environment[key]) != _lasting(here[key])
    }
    if differ:
        raise NotComparable(
            f"the baseline {baseline.path} is of another machine: {_differences(differ, 'here')}",
            hint="save a baseline on this machine: diffc baseline save OUT",
        )


def _of_output(out: Path) -> Subject:
    held = read_lock(out)["model"]
    folders = sorted((out / "engines").glob(f"*/compressed/{NAME}"))
    if not folders:
        raise InputError(f"{out} holds no engines", hint=f"diffc build {out} makes them")
    report = current_report(out)[0] if (out / "report.json").is_file() else None
    return Subject(
        path=out,
        kind="output",
        engines=tuple(_engine(path.parent) for path in folders),
        model=f"{held['name']} ({held['class_name']})",
        digest=held["digest"],
        environment=report.environment if report else None,
        quality=report.quality if report else None,
        options=locked_recipe(out).check,
    )


def _of_engine(folder: Path) -> Subject:
    engine = _engine(folder)
    return Subject(folder, "engine", (engine,), str(engine.info.source.get("class_name", "")))


def _of_baseline(folder: Path) -> Subject:
    held = Baseline.read(folder)
    return Subject(
        path=folder,
        kind="baseline",
        engines=tuple(_engine(folder / name) for name in held.engines),
        model=held.model,
        digest=held.digest,
        environment=held.environment,
        quality=held.quality,
        figures=tuple(held.figures),
    )


def _engine(path: Path) -> Engine:
    """An engine folder, its files checked, with the reference that lies beside its ONNX.

    Raises InputError for one that is damaged, or is not of what its output folder holds now.
    """
    check_engine(path)
    folder = path.resolve()
    info = read_info(folder)
    check_files(folder, info)
    place = folder.parent.parent.parent / "onnx" / folder.name / "reference.safetensors"
    return Engine(folder, info, place if place.is_file() else None)


def _check_pair(pair: Pair) -> None:
    """Raise NotComparable when the two engines are of other models, devices or versions."""
    ours, theirs = pair.candidate.info, pair.baseline.info
    sides = [{**info.device, **info.versions, **_interface(info)} for info in (ours, theirs)]
    keys = dict.fromkeys([*sides[0], *sides[1]])
    differ = {
        key: (str(sides[1].get(key, "none")), str(sides[0].get(key, "none")))
        for key in keys
        if sides[0].get(key) != sides[1].get(key)
    }
    if differ:
        raise NotComparable(
            f"{pair.candidate.name}: the engines cannot be compared: "
            f"baseline {pair.baseline.folder} against candidate {pair.candidate.folder}: "
            f"{_differences(differ, 'candidate')}",
            hint="build both from their ONNX folders on this machine",
        )


def _interface(info: EngineInfo) -> dict[str, str]:
    """What makes it an engine of the same model: its class, inputs and outputs."""
    specs = {
        kind: ", ".join(f"{s.name} {list(s.shape)}" for s in side)
        for kind, side in (("inputs", info.inputs), ("outputs", info.outputs))
    }
    return {"model": str(info.source.get("class_name", "")), **specs}


def _only_once(
    candidate: Subject, ours: Mapping[str, Engine], baseline: Subject, theirs: Mapping[str, Engine]
) -> list[str]:
    notes = [f"{name} is not in the baseline: not judged" for name in ours if name not in theirs]
    gone = (name for name in theirs if name not in ours)
    return [*notes, *(f"{name} is in the baseline, not in {candidate.path}" for name in gone)]


def _differences(differ: Mapping[str, tuple[str, str]], ours: str) -> str:
    return "; ".join(
        f"{key}: baseline {there or 'none'}, {ours} {here or 'none'}"
        for key, (there, here) in differ.items()
    )


def _lasting(value: Any) -> Any:
    """GPUs without their clock of the moment."""
    if isinstance(value, list):
        return [{k: v for k, v in gpu.items() if k != "clock_mhz"} for gpu in value]
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{gpu['name']} (driver {gpu['driver']})" for gpu in value) or "no GPU"
    return str(value)


def _model(subject: Subject) -> str:
    return f"{subject.model} {str(subject.digest)[:12]}"


def _listed(engines: Mapping[str, Engine]) -> str:
    return ", ".join(engines) or "none"


def batches(pair: Pair, wanted: Sequence[int]) -> Iterator[int]:
    """The batch sizes that both engines were built for (of those ``wanted``, when given)."""
    ours, theirs = (set(e.info.batches or (1,)) for e in (pair.candidate, pair.baseline))
    common = sorted(ours & theirs) if not wanted else list(wanted)
    if not common:
        raise NotComparable(
            f"{pair.candidate.name}: no batch size in common: candidate {sorted(ours)}, "
            f"baseline {sorted(theirs)}"
        )
    yield from common
