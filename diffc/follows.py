"""What in an output folder follows from what: one question, asked by every verb.

A stage can be done again on its own (``diffc prune OUT``), and files can be swapped by hand. What
was made from the older files then lies beside the newer ones. Each stage's record in OUT/.diffc
says what the stage read (``inputs``) and what it wrote (``files``), and each engine.json says which
ONNX file its engine was built from; so the files themselves tell whether they belong together:

    plan.json <- pruned <- model <- onnx/compressed <- engines/TARGET/compressed <- figures
                  the dense model <- onnx/dense      <- engines/TARGET/dense     <-

What no record speaks of (a folder made by hand, or by an older diffc) is not doubted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffc.digests import known_digest
from diffc.errors import InputError
from diffc.models.components import VAE_NAMES
from diffc.models.files import read_json
from diffc.output import DECODER, MASKED_DECODER, SIDES, VAE_ENCODER, is_output, read_lock
from diffc.stage_records import STATE, place_of
from diffc_export.targets.engine import NAME, engine_digest, exported_file, read_info
from diffc_export.targets.onnx_file import DESCRIPTION, REFERENCE

_TEXT_ENCODER = "text_encoder"
_MEASURING = ("bench", "explain", "serve")
_OF_ENGINES = ("build", "choose", "frontier", "anchors", *_MEASURING)
_VERBS = {
    "plan": "prune",
    "prune": "prune",
    "repair": "distill",
    "distill": "distill",
    "trajectories": "distill",
    "fuse": "export",
    "samples": "eval",
    "eval": "eval",
}


_OLDER_PLAN = "is of the plan before the last pruning"
_OLDER_REPAIR = "is of the repair before the last one"
_OLDER_MODEL = "is of the model before the last distillation"


@dataclass(frozen=True)
class Fault:
    """Why something does not follow. hint: what to do, where the verb that asks knows nothing
    better."""

    reason: str
    hint: str | None = None


@dataclass(frozen=True)
class _Link:
    """A stage holds the key of the stage that it follows from, as one of its inputs."""

    input: str
    maker: str
    older: str


_SAMPLES = _Link("compressed", "distill", _OLDER_MODEL)
_LINKS = {
    "prune": (_Link("plan", "plan", "is of the plan before the last one"),),
    "repair": (_Link("pruned", "prune", _OLDER_PLAN),),
    "distill": (  # a model of an older diffc follows from the pruned one alone
        _Link("pruned", "prune", _OLDER_PLAN),
        _Link("repaired", "repair", _OLDER_REPAIR),
        _Link("blocks", "distill-blocks", "is of blocks before they learnt anew"),
    ),
    "distill-blocks": (_Link("repaired", "repair", _OLDER_REPAIR),),
    "fuse-loras": (_Link("distilled", "distill", _OLDER_MODEL),),
    "distill-loop": (
        _Link("distilled", "distill", _OLDER_MODEL),
        _Link("trajectories", "trajectories", "is of the trajectories before the last ones"),
    ),
    "samples": (_SAMPLES,),
    "eval": (_SAMPLES,),
    "export-compressed": (_Link("model", "distill", _OLDER_MODEL),),
}
_OF_LOOPS = "distill-loop"
"""The stage that makes OUT/model, where it is there, in the place of ``distill``."""
_FUSE = "fuse-loras"
"""The stage that makes OUT/model of theirs, where it is there."""


def check_model(out: Path) -> None:
    """OUT/model is of plan.json, and neither was changed by hand. Raises InputError if not."""
    folder = _Folder(out)
    _raise(folder.fault(folder.model_maker), f"diffc distill {out}")


def check_untouched(out: Path) -> None:
    """What diffc would write over is as diffc left it. Raises InputError if not.

    plan.json and OUT/model are what people edit, or train on: their work is not replaced unasked.
    """
    folder = _Folder(out)
    for name in ("plan", "prune", "distill", _OF_LOOPS, _FUSE):
        _raise(folder.changed(name, missing=False), f"diffc export {out}")


def check_onnx(out: Path) -> None:
    """OUT/onnx is of OUT/model and of the dense model. Raises InputError if not."""
    folder = _Folder(out)
    encoders = sorted(path.name for path in (out / "onnx").glob(f"{_TEXT_ENCODER}*"))
    for side in (*SIDES, DECODER, VAE_ENCODER, MASKED_DECODER, *encoders):
        _raise(folder.fault(f"export-{side}"), f"diffc export {out}")


def check_engine(engine: Path) -> None:
    """An engine of an output folder was built from what that folder holds now.

    Args:
        engine: OUT/engines/TARGET/SIDE. An engine folder elsewhere has nothing to follow from.

    Raises:
        InputError: It was not.
    """
    place = engine if len(engine.parents) > 2 else engine.resolve()
    if len(place.parents) < 3 or place.parents[1].name != "engines":
        return
    out = place.parents[2]
    if is_output(out):
        fault = _Folder(out).engine_fault(place.parent.name, place.name)
        _raise(fault, f"diffc export {out}, then diffc build {out}")


def check_measured(out: Path) -> None:
    """The figures of OUT are of the engines and the model that it holds. Raises InputError if not.

    Engines that were never measured (built for another machine) are left aside.
    """
    folder = _Folder(out)
    for target in sorted(path.name for path in (out / "engines").glob("*")):
        for name in (f"build-{target}-{side}" for side in SIDES):
            _raise(folder.fault(name), f"diffc export {out}, then diffc bench {out}")
        _raise(folder.fault(f"bench-{target}"), f"diffc bench {out} --target {target}")
    _raise(folder.fault("samples"), f"diffc eval {out}")


def is_of_engines(stage: str) -> bool:
    """Whether a stage builds engines or measures them, so that it can be done without the model."""
    return stage.partition("-")[0] in _OF_ENGINES


def still_follows(out: Path, names: Iterable[str]) -> list[str]:
    """Those of the stages ``names`` whose outcome is of what OUT holds now, in the same order."""
    folder = _Folder(out)
    return [name for name in names if folder.fault(name) is None]


def _raise(fault: Fault | None, hint: str) -> None:
    if fault is not None:
        raise InputError(fault.reason, hint=fault.hint or hint)


def _links(name: str) -> tuple[_Link, ...] | None:
    """What the stage follows from; there are several evaluations, each with a name of its own."""
    return _LINKS.get("eval" if name.startswith("eval-") else name)


class _Folder:
    """The records of one output folder, each read and judged once."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._faults: dict[str, Fault | None] = {}

    def _dense(self) -> str:
        """The digest of the dense model that OUT is of."""
        return str(read_lock(self.out)["model"]["digest"])

    def _component(self, name: str) -> Any:
        """The digest of a component of OUT/model; None where its record does not have it."""
        maker = _FUSE if self._record(_FUSE) else "distill"
        parts = self._record(maker).get("inputs", {}).get("parts", {})
        return parts.get("components", {}).get(name)

    def _vae(self) -> Any:
        """The digest of the VAE of OUT/model, whatever its name in the pipeline."""
        digests = (self._component(name) for name in VAE_NAMES)
        return next((digest for digest in digests if digest is not None), None)

    @property
    def model_maker(self) -> str:
        """The stage whose outcome OUT/model is."""
        return _FUSE if self._record(_FUSE) else self._trained_by

    @property
    def _trained_by(self) -> str:
        """The stage that trained the compressed model last."""
        return _OF_LOOPS if self._record(_OF_LOOPS) else "distill"

    def fault(self, name: str) -> Fault | None:
        """Why the outcome of stage ``name`` does not follow; None where it does."""
        if name not in self._faults:
            self._faults[name] = self._judged(name)
        return self._faults[name]

    def _judged(self, name: str) -> Fault | None:
        kind, _, rest = name.partition("-")
        if kind == "build":
            is_masked = rest.endswith(f"-{MASKED_DECODER}")
            side = MASKED_DECODER if is_masked else rest.rpartition("-")[2]
            return self.engine_fault(rest.removesuffix(f"-{side}"), side)
        if kind in ("frontier", "anchors"):
            return self._beside_samples_fault(name, rest)
        if kind in _MEASURING:
            return self._figures_fault(name, rest)
        if kind == "choose":
            return self._choice_fault(name, rest)
        return self._link_fault(name) or (None if name == "prune" else self.changed(name))

    def changed(
        self, name: str, *, only: Collection[str] = (), missing: bool = True
    ) -> Fault | None:
        """A file that the stage wrote, and that is another or gone.

        A place that is not there at all says nothing wrong: people remove what they do not need.

        Args:
            name: The stage's.
            only: The names of the files to look at; empty: every one.
            missing: Whether a file that is gone counts.
        """
        again = f"diffc {_VERBS.get(name.partition('-')[0], 'export')} {self.out}"
        for path, digest in self._written(name):
            if only and path.name not in only:
                continue
            there = path.is_file()
            if missing and not there:
                return Fault(f"{path} is missing", f"{again} writes it again")
            if there and known_digest(path) != digest:
                return Fault(
                    f"{path} was changed since diffc wrote it",
                    f"move it away, and {again} writes its own again; "
                    "or compile the changed model into another --out",
                )
        return None

    def _written(self, name: str) -> Iterator[tuple[Path, str]]:
        """The stage's files in OUT and their sha256, in those of its places that are there."""
        record = self._record(name)
        for file, digest in record.get("files", {}).items():
            place = place_of(file, record["places"])
            if place is not None and (self.out / record["places"][file.split("/")[0]]).exists():
                yield self.out / place, digest

    def engine_fault(self, target: str, side: str) -> Fault | None:
        """Why OUT/engines/TARGET/SIDE does not follow; an engine that is not there does no harm."""
        engine = self.out / "engines" / target / side
        if not (engine / NAME).is_file():
            return None
        export, built_from = f"export-{side}", exported_file(read_info(engine).source)
        there = self._onnx_digest(side)
        older = self._link_fault(export)
        if older is None and None not in (there, built_from) and built_from != there:
            return Fault(
                f"{engine} was built from another ONNX file than {self.out / 'onnx' / side}",
                f"diffc build {self.out} --target {target}",
            )
        return older or self.changed(export, only=(DESCRIPTION, REFERENCE))

    def _link_fault(self, name: str) -> Fault | None:
        """Why what the stage was made from is not what OUT holds now."""
        inputs, links = self._record(name).get("inputs", {}), _links(name)
        if links is None:
            key, there = "", None
            if name == "export-dense":
                key, there = "model", self._dense()
            elif name.removeprefix("export-") in (DECODER, VAE_ENCODER, MASKED_DECODER):
                key, there = "vae", self._vae()
            elif name.startswith(f"export-{_TEXT_ENCODER}"):
                key, there = "encoder", self._component(name.removeprefix("export-"))
            if inputs and there not in (None, inputs.get(key)):
                return Fault(f"{self.out / name.replace('export-', 'onnx/')} is of another model")
            return None
        for link in links:
            made_by = link.maker
            if made_by == "distill" and name != _OF_LOOPS:
                made_by = self._trained_by if name == _FUSE else self.model_maker
            fault, maker = self.fault(made_by), self._record(made_by)
            if fault is None and inputs and maker and inputs.get(link.input) != maker.get("key"):
                place = next(iter(self._record(name)["places"].values()), name)
                fault = Fault(f"{self.out / place} {link.older}")
            if fault is not None:
                return fault
        return None

    def _figures_fault(self, name: str, target: str) -> Fault | None:
        """Why the figures of a stage that measured are not of the engines that are there."""
        inputs = self._record(name).get("inputs", {})
        for side, engine in inputs.get("engines", {}).items():
            fault = self._engine_changed(target, side, engine) or self.fault(
                f"build-{target}-{side}"
            )
            if fault is not None:
                return fault
        for side, digest in inputs.get("references", {}).items():
            path = self.out / "onnx" / side / REFERENCE
            if path.is_file() and known_digest(path) != digest:
                return Fault(f"{target} was measured against another {path}")
        return None

    def _beside_samples_fault(self, name: str, target: str) -> Fault | None:
        """Why other loops are not beside the samples and the engines that are there."""
        fault = self.fault("samples") or self.fault(f"bench-{target}")
        fault = fault or self._figures_fault(name, target)
        files = self._record("samples").get("files", {})
        compared = self._record(name).get("inputs", {}).get("images")
        if fault is None and compared is not None and compared not in files.values():
            return Fault(f"the samples of {self.out} are newer than those they were compared with")
        return fault

    def _choice_fault(self, name: str, target: str) -> Fault | None:
        """Why the choice of a precision is not that of the engine that is there."""
        record = self._record(name)
        tried = record.get("inputs", {}).get("engines", {})
        chosen = record.get("result", {}).get("choice", {}).get("chosen")
        for side, engine in tried.get(chosen, {}).items():
            fault = self._engine_changed(target, side, engine)
            if fault is not None:
                return fault
        return None

    def _engine_changed(self, target: str, side: str, measured: Mapping[str, Any]) -> Fault | None:
        engine = self.out / "engines" / target / side
        if not (engine / NAME).is_file():
            return Fault(f"{engine} is not there any more", f"diffc bench {self.out}")
        if engine_digest(engine) != measured:
            return Fault(f"{target} was built again since it was measured")
        return None

    def _onnx_digest(self, side: str) -> str | None:
        """sha256 of the fp32 ONNX file of one side, as exported; None where nothing tells."""
        recorded = self._record(f"export-{side}").get("result", {}).get("sha256")
        path = self.out / "onnx" / side / DESCRIPTION
        if recorded is None and path.is_file():
            recorded = read_json(path).get("sha256")
        return None if recorded is None else str(recorded)

    def _record(self, name: str) -> Mapping[str, Any]:
        return self._records.get(name, {})

    @cached_property
    def _records(self) -> dict[str, Mapping[str, Any]]:
        return dict(_read_records(self.out))


def _read_records(out: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records in OUT/.diffc; without those that are damaged."""
    for path in sorted((out / STATE).glob("*.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and isinstance(record.get("places", {}), dict):
            yield path.stem, {"places": {}, "files": {}, **record}
