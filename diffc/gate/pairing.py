"""Which engines of two subjects are judged against one another, and what cannot be compared.

    match_engines   pairs of engines that are measured again
    match_figures   engines and the figures that were stored of the baseline

Refused (NotComparable): other models, machines, devices, versions, inputs. Lost: an engine or a
batch size that the baseline has and the candidate has not, unless the request names what it wants.
Noted: whatever else the two sides were built with differently, for it is in their times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffc.errors import NotComparable, RequestError
from diffc.gate.baseline import StoredFigures
from diffc.gate.subject import CheckedEngine, CheckedSide
from diffc.measure.engines import serves_batch, threads_of
from diffc.measure.environment import OF_THE_MOMENT, read_environment
from diffc_export.targets import on_gpu
from diffc_export.targets.engine import EngineInfo

_MACHINE = ("cpu", "cores", "gpus")
_EVERY_CORE = "every core"


@dataclass(frozen=True)
class Selection:
    """The engines that a request names.

    Attributes:
        targets: Empty for all.
        batch: Batch sizes; empty for all.
        threads: CPU threads of both sides; None: as each was built.
    """

    targets: tuple[str, ...] = ()
    batch: tuple[int, ...] = ()
    threads: int | None = None

    def takes(self, target: str) -> bool:
        """True where this target's engines are judged."""
        return not self.targets or target in self.targets


@dataclass(frozen=True)
class Pair:
    """A candidate and the baseline that it is judged against, at each of ``batches``."""

    candidate: CheckedEngine
    baseline: CheckedEngine
    batches: tuple[int, ...]


@dataclass(frozen=True)
class StoredPair:
    """A candidate and the figures that were stored of the baseline, by batch size."""

    candidate: CheckedEngine
    stored: Mapping[int, StoredFigures]


@dataclass(frozen=True)
class Lost:
    """An engine, or a batch size of one, that the baseline has and the candidate lacks.

    Attributes:
        batch: None for the whole engine.
        reason: The sentence that the check shows.
    """

    target: str
    precision: str
    batch: int | None
    reason: str


@dataclass(frozen=True)
class Matching:
    """Everything that can be compared, and what the candidate lost; notes are sentences."""

    pairs: list[Pair] = field(default_factory=list)
    stored: list[StoredPair] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def match_engines(candidate: CheckedSide, baseline: CheckedSide, wanted: Selection) -> Matching:
    """The engines that both have.

    Raises:
        NotComparable: with both sides, when the models or the machines differ, when no engine is on
            both sides, or when one that the request names is not.
        RequestError: a batch size of the request is served by no pair.
    """
    result = Matching(notes=check_model(candidate, baseline))
    check_machine(baseline)
    ours, theirs = _by_name(candidate, wanted), _by_name(baseline, wanted)
    common = [name for name in ours if name in theirs]
    _check_common(candidate, ours, baseline, theirs, wanted)
    for name in common:
        _check_pair(ours[name], theirs[name])
    batches = {name: _batches(ours[name].info, theirs[name].info, wanted) for name in common}
    _check_batches(batches, wanted)
    for name in common:
        result.pairs.append(Pair(ours[name], theirs[name], batches[name]))
        result.notes.extend(_built_differently(ours[name], theirs[name], wanted))
        result.lost.extend(_lost_batches(ours[name], theirs[name].info.batches, wanted))
    result.notes.extend(_new(ours, theirs))
    result.lost.extend(_lost(candidate, ours, [_place(e.info) for e in theirs.values()], wanted))
    return result


def match_figures(candidate: CheckedSide, baseline: CheckedSide, wanted: Selection) -> Matching:
    """The candidate's engines, each with the baseline's stored figures of it.

    Raises:
        NotComparable: As ``match_engines``; the figures are of another machine, or of other
            versions of the runtimes.
        RequestError: As ``match_engines``.
    """
    result = Matching(notes=check_model(candidate, baseline))
    _check_fingerprint(baseline)
    ours = _by_name(candidate, wanted)
    theirs: dict[str, dict[int, StoredFigures]] = {}
    for one in baseline.figures:
        if wanted.takes(one.target):
            theirs.setdefault(f"{one.target} {one.precision}", {})[one.batch] = one
    _check_common(candidate, ours, baseline, theirs, wanted)
    common = [name for name in ours if name in theirs]
    batches = {name: _stored_batches(ours[name].info, theirs[name], wanted) for name in common}
    _check_batches(batches, wanted)
    for name in common:
        _check_stored(ours[name], theirs[name])
        stored = {batch: theirs[name][batch] for batch in batches[name]}
        result.stored.append(StoredPair(ours[name], stored))
        result.notes.extend(_stored_differently(ours[name], stored, wanted))
        result.lost.extend(_lost_batches(ours[name], tuple(theirs[name]), wanted))
    result.notes.extend(_new(ours, theirs))
    places = [(one.target, one.precision) for one in baseline.figures if wanted.takes(one.target)]
    result.lost.extend(_lost(candidate, ours, list(dict.fromkeys(places)), wanted))
    return result


def check_model(candidate: CheckedSide, baseline: CheckedSide) -> list[str]:
    """Refuse two sides that were made from different dense models.

    Returns:
        A note where one side does not say what it was made from.
    """
    if candidate.digest and baseline.digest:
        if candidate.digest == baseline.digest:
            return []
        raise NotComparable(
            f"different models: candidate {_model(candidate)}, baseline {_model(baseline)}"
        )
    classes = (candidate.class_name, baseline.class_name)
    if all(classes) and classes[0] != classes[1]:
        raise NotComparable(f"different models: candidate {classes[0]}, baseline {classes[1]}")
    silent = baseline if candidate.digest else candidate
    return [
        f"{silent.path} does not say which model it was made from: whether both sides are of one "
        "model is not known"
    ]


def check_machine(baseline: CheckedSide) -> None:
    """Refuse stored figures of another processor, GPU or driver.

    Raises:
        NotComparable: The message shows both machines.
    """
    there = baseline.environment
    if there is None or baseline.kind == "output":
        return
    here = read_environment().model_dump(mode="json")
    differ = {
        key: (_words(there.get(key)), _words(here[key]))
        for key in _MACHINE
        if _lasting(there.get(key)) != _lasting(here[key])
    }
    if differ:
        raise NotComparable(
            f"the baseline {baseline.path} is of another machine: {_differences(differ, 'here')}",
            hint="save a baseline on this machine: diffc baseline save OUT",
        )


def _check_fingerprint(baseline: CheckedSide) -> None:
    here = read_environment().fingerprint
    there = (baseline.environment or {}).get("fingerprint")
    if here != there:
        raise NotComparable(
            f"{baseline.path} was measured on another machine or with other versions: "
            f"its fingerprint is {there or 'unknown'}, here it is {here}",
            hint="give --baseline with engines, which are measured again here",
        )


def _by_name(subject: CheckedSide, wanted: Selection) -> dict[str, CheckedEngine]:
    return {engine.name: engine for engine in subject.engines if wanted.takes(engine.info.target)}


def _check_common(
    candidate: CheckedSide,
    ours: Mapping[str, object],
    baseline: CheckedSide,
    theirs: Mapping[str, object],
    wanted: Selection,
) -> None:
    """Raise NotComparable unless something is on both sides, and all that the request names."""
    common = [name for name in ours if name in theirs]
    sides = f"{candidate.path} has {_names(ours)}; {baseline.path} has {_names(theirs)}"
    if not common:
        of_targets = f" of {', '.join(wanted.targets)}" if wanted.targets else ""
        raise NotComparable(f"no engine{of_targets} is on both sides: {sides}")
    for target in wanted.targets:
        if not any(name.split()[0] == target for name in common):
            raise NotComparable(f"{target} is not on both sides: {sides}")


def _check_pair(ours: CheckedEngine, theirs: CheckedEngine) -> None:
    """Raise NotComparable when the two engines are of other models, devices or versions."""
    sides = [
        {**e.info.device, **e.info.versions, "model": _class_name(e), **e.info.interface}
        for e in (ours, theirs)
    ]
    keys = dict.fromkeys([*sides[0], *sides[1]])
    differ = {
        key: (str(sides[1].get(key, "none")), str(sides[0].get(key, "none")))
        for key in keys
        if sides[0].get(key) != sides[1].get(key)
    }
    if differ:
        raise NotComparable(
            f"{ours.name}: the engines cannot be compared: "
            f"baseline {theirs.folder} against candidate {ours.folder}: "
            f"{_differences(differ, 'candidate')}",
            hint="build both from their ONNX folders on this machine, or leave this target out: "
            "--target names those to judge",
        )


def _class_name(engine: CheckedEngine) -> str:
    return str(engine.info.source.get("class_name", ""))


def _batches(ours: EngineInfo, theirs: EngineInfo, wanted: Selection) -> tuple[int, ...]:
    """The batch sizes that both serve: those of the request, else those that both are best at."""
    if wanted.batch:
        return tuple(b for b in wanted.batch if serves_batch(ours, b) and serves_batch(theirs, b))
    sizes = dict.fromkeys([*(ours.batches or (1,)), *(theirs.batches or (1,))])
    return tuple(b for b in sorted(sizes) if serves_batch(ours, b) and serves_batch(theirs, b))


def _stored_batches(
    ours: EngineInfo, theirs: Mapping[int, StoredFigures], wanted: Selection
) -> tuple[int, ...]:
    sizes = wanted.batch or sorted(theirs)
    return tuple(batch for batch in sizes if batch in theirs and serves_batch(ours, batch))


def _check_batches(batches: Mapping[str, tuple[int, ...]], wanted: Selection) -> None:
    """Raise RequestError for a batch size that no pair serves, NotComparable for none in common."""
    served = {batch for sizes in batches.values() for batch in sizes}
    for batch in wanted.batch:
        if batch not in served:
            known = f"both sides have {', '.join(map(str, sorted(served)))}" if served else None
            raise RequestError(f"--batch {batch}: no engine on both sides serves it", hint=known)
    if not served:
        raise NotComparable(f"{next(iter(batches))}: no batch size in common")


def _lost_batches(ours: CheckedEngine, theirs: Sequence[int], wanted: Selection) -> list[Lost]:
    target, precision = _place(ours.info)
    reason = "the baseline serves it, the candidate does not"
    return [
        Lost(target, precision, batch, reason)
        for batch in dict.fromkeys(theirs)
        if not wanted.batch and not serves_batch(ours.info, batch)
    ]


def _lost(
    candidate: CheckedSide,
    ours: Mapping[str, CheckedEngine],
    theirs: Sequence[tuple[str, str]],
    wanted: Selection,
) -> list[Lost]:
    """The baseline's engines that the candidate has not; none where the request names targets."""
    if wanted.targets:
        return []
    reason = f"the baseline has it, {candidate.path} does not"
    return [
        Lost(target, precision, None, reason)
        for target, precision in theirs
        if f"{target} {precision}" not in ours
    ]


def _new(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    return [f"{name} is not in the baseline: not judged" for name in ours if name not in theirs]


def _built_differently(ours: CheckedEngine, theirs: CheckedEngine, wanted: Selection) -> list[str]:
    """A sentence for each thing that the two engines of a pair were built with differently."""
    sides = [_build_facts(engine.info, wanted) for engine in (theirs, ours)]
    return [
        _note(ours, what, there, here)
        for what, there, here in ((k, sides[0][k], sides[1][k]) for k in sides[0])
        if there != here
    ]


def _build_facts(info: EngineInfo, wanted: Selection) -> dict[str, str]:
    """The facts beside the model that an engine's times depend on.

    Threads are among them, unless the request sets them.
    """
    facts = {
        "the shapes that they serve": _served_words(info.served),
        "the precisions that they compute in": info.precision_found,
        "the GPUs that they were built for": ", ".join(info.built_for) or "this one",
        "the ways of running torch": str(info.details.get("variant", "")),
    }
    if not on_gpu(info.target) and wanted.threads is None:
        facts["the threads"] = str(info.threads or _EVERY_CORE)
    return facts


def _served_words(served: Sequence[str]) -> str:
    return "; ".join(served) or "any batch"


def _check_stored(ours: CheckedEngine, stored: Mapping[int, StoredFigures]) -> None:
    """Raise NotComparable when the stored times are of an engine with other inputs or outputs."""
    here = ours.info.interface
    for there in (one.interface for one in stored.values()):
        if there is None or there == here:
            continue
        names = dict.fromkeys([*there, *here])
        differ = {
            name: (there.get(name, ""), here.get(name, ""))
            for name in names
            if there.get(name) != here.get(name)
        }
        raise NotComparable(
            f"{ours.name}: the stored figures are of other inputs or outputs: "
            f"{_differences(differ, 'candidate')}",
            hint="compare engines of one model at one resolution",
        )


def _stored_differently(
    ours: CheckedEngine, stored: Mapping[int, StoredFigures], wanted: Selection
) -> list[str]:
    """A note for each thing that the stored engine was built with differently, or is not known."""
    here = threads_of(ours.info, wanted.threads)
    notes, unknown = [], []
    first = next(iter(stored.values()))
    if here is not None:
        if first.threads is None:
            unknown.append("threads")
        elif first.threads != here:
            notes.append(_note(ours, "the threads", str(first.threads), str(here)))
    if first.served is None or first.interface is None:
        unknown.append("shapes")
    elif first.served != ours.info.served:
        words = (_served_words(first.served), _served_words(ours.info.served))
        notes.append(_note(ours, "the shapes that they serve", *words))
    if unknown:
        said = " and ".join(unknown)
        notes.append(f"{ours.name}: of which {said} the stored times are is not known")
    return notes


def _note(ours: CheckedEngine, what: str, baseline: str, candidate: str) -> str:
    return (
        f"{ours.name}: {what} differ, and count in the figures: baseline {baseline}, "
        f"candidate {candidate}"
    )


def _place(info: EngineInfo) -> tuple[str, str]:
    return info.target, info.precision_asked


def _differences(differ: Mapping[str, tuple[str, str]], ours: str) -> str:
    return "; ".join(
        f"{key}: baseline {there or 'none'}, {ours} {here or 'none'}"
        for key, (there, here) in differ.items()
    )


def _lasting(value: object) -> object:
    """GPUs without the facts that change from moment to moment; anything else as it is."""
    if isinstance(value, list):
        return [{k: v for k, v in gpu.items() if k not in OF_THE_MOMENT} for gpu in value]
    return value


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{gpu['name']} (driver {gpu['driver']})" for gpu in value) or "no GPU"
    return str(value)


def _model(subject: CheckedSide) -> str:
    return f"{subject.model} {str(subject.digest)[:12]}"


def _names(engines: Mapping[str, object]) -> str:
    return ", ".join(engines) or "none"
