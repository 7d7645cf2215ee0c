"""Stored baselines: what is measured again, or rebuilt, to judge a later candidate.

    FOLDER/
      baseline.json                        what was measured, raw times included, and where
      engines/TARGET/compressed/           the engine folder (left out with --figures-only)
      onnx/compressed/reference.safetensors    what torch gave, for parity

It can be committed, or kept as a CI artifact. ``history.jsonl`` beside the baselines (history.py)
has one line of medians for each figure that was saved.
"""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffc import __version__
from diffc.errors import InputError
from diffc.follows import check_measured
from diffc.gate.history import append_history, rows_of_baseline
from diffc.measure.results import TargetResult, at_working
from diffc.report.model import Report
from diffc.result_files import check_folder, check_outputs, writing
from diffc_runtime.files import new_folder
from diffc_runtime.json_types import JsonDict

MANIFEST = "baseline.json"
HISTORY = "history.jsonl"
SCHEMA_VERSION = 2
"""2: ``loop``. Baselines of version 1 are read too."""


class StoredFigures(BaseModel):
    """One compressed engine's figures at one batch size.

    Attributes:
        samples_ms: Every single time in milliseconds.
        threads: Of the engine while it was timed; None on a GPU.
        interface: Its inputs and outputs in words; None where an older diffc did not keep them.
        served: The shapes that it was built for in words; None as ``interface``.
    """

    model_config = ConfigDict(extra="forbid")

    target: str
    precision: str
    batch: int
    p50_ms: float | None = None
    samples_ms: list[float] = Field(default_factory=list)
    peak_bytes: int | None = None
    device_bytes: int | None = None
    engine_bytes: int
    build_seconds: float
    onnx_sha256: str | None = None
    threads: int | None = None
    interface: dict[str, str] | None = None
    served: list[str] | None = None

    @classmethod
    def of(cls, result: TargetResult, onnx_sha256: str | None = None) -> StoredFigures:
        """The compressed side of one of a report's results."""
        side = result.compressed
        return cls(
            target=result.target,
            precision=result.precision,
            batch=result.batch,
            p50_ms=side.latency_ms.p50 if side.latency_ms else None,
            samples_ms=side.samples_ms,
            peak_bytes=side.memory.peak_bytes,
            device_bytes=side.memory.device_bytes,
            engine_bytes=side.memory.engine_bytes,
            build_seconds=side.build_seconds,
            onnx_sha256=onnx_sha256,
            threads=result.details.get("threads"),
            interface=result.details.get("interface"),
            served=result.details.get("served"),
        )


class Baseline(BaseModel):
    """baseline.json.

    Attributes:
        model: The model's name, for people.
        digest: Of the dense model.
        build: The recipe's ``build`` section.
        engines: The engine folders that lie beside the file, relative.
        loop: What its images are made with; None where an older diffc did not keep it.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    diffc: str
    created: str
    name: str
    model: str
    digest: str
    build: JsonDict
    engines: list[str]
    figures: list[StoredFigures]
    quality: JsonDict | None = None
    loop: str | None = None
    environment: JsonDict

    @classmethod
    def read(cls, folder: Path) -> Baseline:
        """Read a baseline's figures.

        Raises:
            InputError: The baseline is damaged, or newer than this diffc.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text("utf-8"))
            version = content["schema_version"]
        except OSError:
            raise InputError(f"{folder} holds no baseline (no {MANIFEST})") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is damaged", hint="save the baseline again") from None
        if version not in (1, SCHEMA_VERSION):
            known = f"1 and {SCHEMA_VERSION}"
            raise InputError(
                f"{path} has schema {version}; this diffc {__version__} reads {known}",
                hint="use the diffc that wrote it, or save the baseline again",
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{path} is damaged: {where}: {first['msg']}") from None


def is_baseline(folder: Path) -> bool:
    """True for a folder that holds a stored baseline."""
    return (folder / MANIFEST).is_file()


def save(out: Path, folder: Path, *, engines: bool = True) -> Baseline:
    """Store ``out``'s compressed engines and figures as ``folder``, replaced whole.

    Args:
        out: A measured output folder.
        folder: Where to store it.
        engines: Keep the engines, so that they can be measured again.

    Raises:
        InputError: ``out`` was not measured, ``folder`` holds something else, or the disk takes no
            files there.
    """
    from diffc.output import read_lock

    lock, report = read_lock(out), Report.read(out)
    check_measured(out)
    if not report.targets or report.environment is None:
        raise InputError(f"{out} was not measured yet", hint=f"diffc bench {out}")
    check_folder(folder, "--to")
    if folder.exists() and any(folder.iterdir()) and not is_baseline(folder):
        raise InputError(f"{folder} is not empty and holds no baseline: it is left as it is")
    history = folder.parent / HISTORY
    check_outputs({"the history": history})
    baseline = Baseline(
        diffc=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        name=folder.name,
        model=f"{lock['model']['name']} ({lock['model']['class_name']})",
        digest=lock["model"]["digest"],
        build=lock["recipe"]["build"],
        engines=_engines(out, report) if engines else [],
        figures=[StoredFigures.of(r, _onnx_sha(out, r.target)) for r in at_working(report.targets)],
        quality=report.quality,
        loop=_loop(out, report),
        environment=dict(report.environment),
    )
    with writing(folder, "--to"):
        _write(out, folder, baseline)
    with writing(history, "the history"):
        append_history(history, rows_of_baseline(baseline))
    return baseline


def _engines(out: Path, report: Report) -> list[str]:
    """The engine folders to keep, relative.

    Raises:
        InputError: An engine was cut or altered.
    """
    from diffc_export.targets.engine import read_info
    from diffc_runtime.engine_folder import check_files

    names = dict.fromkeys(f"engines/{result.target}/compressed" for result in report.targets)
    kept = [name for name in names if (out / name).is_dir()]
    for name in kept:
        check_files(out / name, read_info(out / name).files)
    return kept


def _loop(out: Path, report: Report) -> str | None:
    """What the compressed model's images are made with; None where no engine is there to ask."""
    from diffc.judged import find_loop
    from diffc_export.targets.engine import NAME, read_info

    folders = (out / "engines" / result.target / "compressed" for result in report.targets)
    engine = next((folder for folder in folders if (folder / NAME).is_file()), None)
    if engine is None:
        return None
    loop = find_loop(out, "compressed", read_info(engine).source.get("scheduler") or {})
    return None if loop is None else str(loop)


def _onnx_sha(out: Path, target: str) -> str | None:
    from diffc_export.targets.engine import NAME, read_info

    folder = out / "engines" / target / "compressed"
    if not (folder / NAME).is_file():
        return None
    return str(read_info(folder).source.get("sha256"))


def _write(out: Path, folder: Path, baseline: Baseline) -> None:
    with new_folder(folder) as new:
        for name in baseline.engines:
            shutil.copytree(out / name, new / name)
        reference = Path("onnx/compressed/reference.safetensors")
        if baseline.engines and (out / reference).is_file():
            (new / reference).parent.mkdir(parents=True)
            shutil.copyfile(out / reference, new / reference)
        (new / MANIFEST).write_text(baseline.model_dump_json(indent=1) + "\n", "utf-8")


def list_baselines(root: Path) -> list[tuple[Path, Baseline]]:
    """The baselines in ``root``, by name."""
    return [
        (path.parent, Baseline.read(path.parent)) for path in sorted(root.glob(f"*/{MANIFEST}"))
    ]
