"""An output folder -> Report, from the stages' records alone."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from diffc import __version__
from diffc.errors import DiffcError, InputError
from diffc.follows import is_of_engines
from diffc.measure.frontier.results import Frontier
from diffc.measure.frontier.served import BRIEF, with_times_of
from diffc.measure.results import Ladder, PrecisionChoice, Served, TargetResult
from diffc.models.families import component_of
from diffc.models.files import tensor_entries
from diffc.models.layout import DIFFUSERS_STEMS, weight_files
from diffc.models.source import read_json
from diffc.output import VAE_ENCODER, read_lock, read_notes
from diffc.report.model import (
    EncoderEngine,
    EncoderFigures,
    Evaluation,
    LoraFigures,
    ModelFigures,
    Report,
    StageFigures,
    TextFigures,
)
from diffc.report.records import PlanRecord
from diffc.runner import Outcome, StageResult
from diffc.stage_records import STATE
from diffc_runtime.json_types import JsonDict, JsonObject


@dataclass(frozen=True)
class Commands:
    """What makes an output folder again.

    Attributes:
        first: The command of the run; None for a run from Python.
        later: Those that changed it or added to it, in order.
    """

    first: str | None = None
    later: tuple[str, ...] = ()


def commands_with(out: Path, command: str | None) -> Commands:
    """The commands of an output folder, with the present one, for the next report.

    Args:
        out: The output folder; its report.json has the commands until now.
        command: The present command; None for a call from Python, which is not kept.

    Returns:
        The first command of the report, and the later ones in order. A command that is there again
        stands last, once. Without a readable report, the present command is the first.
    """
    try:
        report = Report.read(out)
    except InputError:  # the run before stopped early
        return Commands(command)
    if command is None or command == report.command:
        return Commands(report.command, tuple(report.then))
    if report.command is None and not report.then:
        return Commands(command)
    earlier = (one for one in report.then if one != command)
    return Commands(report.command, (*earlier, command))


def collect(
    out: Path, done: Sequence[StageResult[Outcome]] = (), commands: Commands | None = None
) -> Report:
    """Return the report of an output folder.

    Args:
        out: The output folder.
        done: The stages of the present run; all others of the folder count as reused.
        commands: What makes the folder again; None: the report names no command.

    Raises:
        InputError: The folder is unfinished.
    """
    lock = read_lock(out)
    records = stage_records(out, lock["stages"])
    commands = commands or Commands()
    fresh = {stage.name for stage in done if not stage.cached}
    benches, serves, climbs, choices, frontiers = (
        [record["result"] for name, record in records.items() if name.startswith(f"{kind}-")]
        for kind in ("bench", "serve", "explain", "choose", "frontier")
    )
    measured = {one["frontier"]["target"]: Frontier(**one["frontier"]) for one in frontiers}
    images = [TargetResult(**bench["pipeline"]) for bench in benches]
    return Report(
        diffc=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=commands.first,
        then=list(commands.later),
        notes=read_notes(out),
        digest=lock["model"]["digest"],
        model=_figures(out, lock, records, "dense"),
        compressed=_figures(out, lock, records, "compressed"),
        loras=_loras(lock, records),
        plan=_plan(out),
        data=records["data"]["result"] if "data" in records else None,
        loop_distillation=(
            records["distill-loop"]["result"] if "distill-loop" in records else None
        ),
        repair=records["repair"]["result"] if "repair" in records else None,
        block_local=(records["distill-blocks"]["result"] if "distill-blocks" in records else None),
        distillation=records["distill"]["result"] if "distill" in records else None,
        stages=[_stage(record, fresh) for record in records.values()],
        targets=[TargetResult(**row) for bench in benches for row in bench["targets"]],
        pipeline=[_image_times(image, measured.get(image.target)) for image in images],
        choices=[PrecisionChoice(**one["choice"]) for one in choices],
        ladders=[Ladder(**row) for climb in climbs for row in climb["ladders"]],
        served=[Served(**row) for serve in serves for row in serve["served"]],
        quality=records["samples"]["result"] if "samples" in records else None,
        evaluations=[
            Evaluation(name=name, quality=record["result"])
            for name, record in records.items()
            if name.startswith("eval-")
        ],
        frontiers=list(measured.values()),
        texts=_texts(records),
        vae_encoder=(
            _encoder(records, VAE_ENCODER) if f"export-{VAE_ENCODER}" in records else None
        ),
        environment=benches[-1]["environment"] if benches else None,
    )


def stage_records(out: Path, stages: Mapping[str, str]) -> dict[str, JsonDict]:
    """Return the record of each stage, by the stage's name.

    Args:
        out: The output folder.
        stages: Name -> key, as recipe.lock.yaml has them.

    Raises:
        InputError: The run that was making the folder was interrupted.
    """
    paths = {name: out / STATE / f"{name}.json" for name in stages}
    records = {name: read_json(path) for name, path in paths.items() if path.exists()}
    # ``diffc bench`` that was cut off left newer records of engines: each is whole, and the next
    # ``diffc bench`` goes on from them
    other = [
        name
        for name, record in records.items()
        if record.get("key") != stages[name] and not is_of_engines(name)
    ]
    if other or "plan" not in records:
        raise InputError(
            f"{out} is unfinished: the run that was making it was interrupted",
            hint="run that command again: it goes on from the last finished piece",
        )
    return records


def _image_times(image: TargetResult, frontier: Frontier | None) -> TargetResult:
    """The times of whole images: the frontier's, unless a later bench timed them at length."""
    brief = image.details.get(BRIEF)
    return image if frontier is None or not brief else with_times_of(image, frontier)


def _loras(lock: JsonObject, records: Mapping[str, JsonDict]) -> list[LoraFigures]:
    """The LoRAs of both models, from the lock; what of them was left out, from the fusing."""
    early = len(lock["recipe"].get("loras", ()))
    fused = records.get("fuse-loras", {}).get("result", {}).get("loras", [])
    left_out = {(one["name"], one["weight"]): one.get("left_out", []) for one in fused}
    loras = []
    for place, one in enumerate(lock["model"].get("loras", ())):
        name, weight, late = Path(one["file"]).name, one["weight"], place >= early
        gone = left_out.get((name, weight), []) if late else []
        loras.append(
            LoraFigures(name=name, weight=weight, sha256=one["sha256"], late=late, left_out=gone)
        )
    return loras


def _texts(records: Mapping[str, JsonDict]) -> TextFigures | None:
    """The text encoders, from the records of their exports and engines."""
    if "export-text" not in records:
        return None
    outcome = records["export-text"]["result"]
    encoders = [_encoder(records, name) for name in outcome.get("encoders", [])]
    return TextFigures(encoders=encoders, notes=outcome.get("notes", []))


def _encoder(records: Mapping[str, JsonDict], name: str) -> EncoderFigures:
    """A text encoder or the VAE's, from the records of its export and its engines."""
    exported = records.get(f"export-{name}", {}).get("result", {})
    engines = [
        _encoder_engine(stage.removeprefix("build-").removesuffix(f"-{name}"), record["result"])
        for stage, record in records.items()
        if stage.startswith("build-") and stage.endswith(f"-{name}")
    ]
    return EncoderFigures(name=name, params=exported.get("parameters"), engines=engines)


def _encoder_engine(target: str, outcome: JsonObject) -> EncoderEngine:
    errors = outcome.get("errors") or {}
    return EncoderEngine(
        target=target,
        precision=outcome.get("precision_found"),
        bytes=outcome.get("engine_bytes"),
        error=max(errors.values(), default=None),
        notes=outcome.get("notes", []),
    )


def _stage(record: JsonObject, fresh: set[str]) -> StageFigures:
    return StageFigures(
        name=record["name"],
        seconds=record["seconds"],
        cached=record["name"] not in fresh,
        peak_rss_bytes=record["peak_rss_bytes"],
    )


def _figures(
    out: Path, lock: JsonObject, records: Mapping[str, JsonDict], side: str
) -> ModelFigures:
    plan = records["plan"]["result"][side]
    folder = Path(lock["model"]["folder"]) if side == "dense" else out / "model"
    # after ``diffc prune OUT`` the plan is newer than OUT/model: its size is not the plan's
    of_plan = side == "dense" or "distill" in records
    files = _weight_files(folder, lock["model"]["class_name"]) if of_plan else []
    return ModelFigures(
        name=lock["model"]["name"],
        class_name=lock["model"]["class_name"],
        params=plan["params"],
        macs=plan["macs"],
        bytes=sum(path.stat().st_size for path in files) or None,
        dtype=_dtype_of(files),
    )


def _weight_files(folder: Path, class_name: str) -> list[Path]:
    """The files of the denoiser's weights, of the variant that is read, and of no other network.

    None where the folder is not here (copied elsewhere), for pickles, and for a class that no
    package which is installed here knows.
    """
    with suppress(DiffcError):
        for place in (folder / component_of(class_name), folder):
            files = weight_files(place, DIFFUSERS_STEMS, need=False)
            if files is not None:
                return [] if files.is_pickled else list(files.paths)
    return []


def _dtype_of(files: Iterable[Path]) -> str | None:
    """The dtype of most weights: fp16 for safetensors' F16."""
    sizes: Counter[str] = Counter()
    try:
        for file in files:
            for entry in tensor_entries(file).values():
                sizes[entry.dtype] += math.prod(entry.shape)
    except InputError:  # the dense model's folder may have changed since the run
        return None
    return re.sub("^f", "fp", max(sizes, key=sizes.__getitem__).lower()) if sizes else None


def _plan(out: Path) -> PlanRecord | None:
    path = out / "plan.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text("utf-8"))
    content["groups"] = content.pop("units", None) or content["groups"]  # as format 1 calls them
    for group in content["groups"]:
        group.pop("keep")  # thousands of indices that plan.json already has
    plan: PlanRecord = content
    return plan
