"""The half of the chain that needs OUT/onnx alone: engines, and what they are worth here.

Nothing here imports torch or diffusers, so an output folder made on one machine is finished on
another with diffc and the runtime only.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from diffc.errors import InputError, RequestError, UnavailableError
from diffc.output import read_lock
from diffc.recipe import BuildSection, Recipe
from diffc.stages import Room, Runner, Stage, StageEvent
from diffc_export.cache import cache_folder
from diffc_export.events import Progress, Work
from diffc_export.targets.engine import engine_digest
from diffc_export.targets.onnx_file import DESCRIPTION, REFERENCE
from diffc_runtime.files import file_digest
from diffc_runtime.machine.cpu import cores

SIDES = ("dense", "compressed")


def onnx_folder(out: Path, side: str) -> Path:
    """OUT/onnx/SIDE. Raises InputError when it is not there."""
    folder = out / "onnx" / side
    if not (folder / "model.json").is_file():
        raise InputError(
            f"{folder} holds no exported model", hint=f"diffc export {out} makes it (needs torch)"
        )
    return folder


def reference_file(out: Path, side: str) -> Path:
    """What torch gave, beside OUT/onnx/SIDE. Raises InputError when it is not there."""
    path = onnx_folder(out, side) / REFERENCE
    if not path.is_file():
        raise InputError(
            f"{path} is missing: parity has no reference",
            hint=f"diffc export {out} --fresh writes it (needs torch)",
        )
    return path


def engine_folder(out: Path, target: str, side: str) -> Path:
    """OUT/engines/TARGET/SIDE."""
    return out / "engines" / target / side


def check_targets(build: BuildSection) -> None:
    """Check before the long work that every target of ``build`` can be built here.

    Raises:
        UnavailableError: A target or a precision is not available on this machine.
        RequestError: GPUs or threads do not fit.
    """
    from diffc_export.targets import check_gpus, target
    from diffc_runtime.machine.cpu import check_threads

    if build.gpu:
        _check_takes_gpus(build)
    for name in build.target:
        own = build.of(name)
        status, precision = target(name).status(), own.precision
        check_threads(own.threads)
        if not status.buildable:
            raise UnavailableError(
                f"target '{name}' cannot build here: {status.reason}",
                hint="diffc doctor shows what works on this machine",
            )
        if precision == "auto":
            if not status.runnable:
                raise UnavailableError(
                    f"--precision auto measures engines, and '{name}' does not run here: "
                    f"{status.reason}",
                    hint="name a precision, or choose on the machine that will serve: "
                    f"diffc build OUT --target {name} --precision auto",
                )
        elif precision != "fp32" and precision not in target(name).precisions():
            has = ", ".join(sorted(target(name).precisions()))
            raise UnavailableError(
                f"target '{name}' does not compute in {precision} here",
                hint=f"it has {has}" + _others_with(precision),
            )
        check_gpus(name, own.gpu, "fp32" if precision == "auto" else precision)


def _check_takes_gpus(build: BuildSection) -> None:
    """Raise RequestError where no target of the run builds for GPUs that are named."""
    from diffc_export.targets import target, targets

    if any(hasattr(target(name), "check_gpus") for name in build.target):
        return  # each says itself which GPUs it builds for
    ahead = [name for name, one in targets().items() if one.facts.ahead_of_time]
    raise RequestError(
        f"--gpu {','.join(build.gpu)} names GPUs to build for, and "
        f"{', '.join(build.target)} builds for this machine alone",
        hint=f"engines are built ahead of time by --target {' or '.join(ahead)}; "
        "else leave --gpu out",
    )


def _others_with(precision: str) -> str:
    """The end of a hint: the targets that have the precision here; empty where none has."""
    from diffc_export.targets import targets

    have = [name for name, one in targets().items() if precision in one.precisions()]
    return f"; {precision} is for {', '.join(have)}" if have else ""


def precision_stage(out: Path, recipe: Recipe, name: str, side: str) -> Stage:
    """The ONNX file of one side in the precision asked for, as target ``name`` wants it."""
    precision, written = recipe.build.precision, precision_folder(name, recipe.build.precision)
    folder, dense = onnx_folder(out, side), onnx_folder(out, "dense")
    inputs = {
        "onnx": _with_reference(folder),
        "calibration": _with_reference(dense) if precision in ("int8", "fp8") else None,
        "precision": written,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        from diffc_export.onnx.precision import convert_precision
        from diffc_export.onnx.quantize import PRECISIONS, QuantizeOptions, quantize
        from diffc_export.targets import target

        yield Progress(0, None, f"writing {precision} into the ONNX file")
        if precision in PRECISIONS:
            options = QuantizeOptions(
                threads=recipe.build.threads or cores(), asymmetric=target(name).facts.asymmetric
            )
            made = yield from quantize(folder, room.out / side, options, dense, precision)
        else:
            made = convert_precision(folder, room.out / side, precision)
        facts = ("precision", "kept_fp32", f"{precision}_error")
        return {key: made[key] for key in facts if key in made}

    places = {side: f"onnx/{written}/{side}"}
    packages = ("onnx", "onnxruntime")
    return Stage(f"precision-{written}-{side}", 6, inputs, run, places, packages)


def precision_folder(name: str, precision: str) -> str:
    """OUT/onnx/THIS/SIDE is the file for target ``name``: ``int8-asymmetric`` where it takes zero
    points, else the precision itself."""
    from diffc_export.targets import target

    return "int8-asymmetric" if precision == "int8" and target(name).facts.asymmetric else precision


def needs_file_of_its_own(name: str, precision: str) -> bool:
    """Whether the precision must be written into the ONNX file: the target cannot be told it."""
    from diffc_export.targets import target

    return precision != "fp32" and precision not in target(name).facts.hinted


def build_stage(out: Path, recipe: Recipe, name: str, side: str) -> Stage:
    """One engine: OUT/engines/TARGET/SIDE."""
    from diffc_export.targets import target
    from diffc_export.targets.base import BuildOptions

    options = recipe.build
    own_file = needs_file_of_its_own(name, options.precision)
    written = precision_folder(name, options.precision)
    source = out / "onnx" / written / side if own_file else onnx_folder(out, side)
    status, runs_torch = target(name).status(), target(name).facts.runs_torch
    model = torch_model(out, side) if runs_torch else None
    build = BuildOptions(
        batch=options.batch, gpu=options.gpu, threads=options.threads,
        precision=options.precision, cache=cache_folder() / "timing", model=model,
        variant=options.torch if runs_torch else "", one_profile=options.one_profile,
    )  # fmt: skip
    inputs = {
        "onnx": _onnx_digest(source),
        "target": name,
        "precision": options.precision,
        "batch": options.batch,
        "one_profile": options.one_profile,
        "gpu": options.gpu,
        "threads": options.threads,
        "versions": dict(status.versions),
        "device": status.device,
        "torch": [model, _model_digest(model), options.torch] if model is not None else None,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        info = yield from target(name).build(source, build, room.out / "engine")
        return {"precision_found": info.precision_found, "engine_bytes": info.engine_bytes}

    places = {"engine": f"engines/{name}/{side}"}
    return Stage(f"build-{name}-{side}", 2, inputs, run, places)


def _model_digest(model: str) -> str:
    """What the torch target's engine says that it is of."""
    from diffc.models.source import find_source

    return find_source(model).digest


def engine_stages(
    runner: Runner, recipe: Recipe, name: str
) -> Generator[StageEvent, None, dict[str, Path]]:
    """Both sides' engines, from an ONNX file in their precision; returns where the cache has them.

    recipe: as ``for_target`` gives it.
    """
    folders = {}
    for side in SIDES:
        if needs_file_of_its_own(name, recipe.build.precision):
            yield from runner.do(precision_stage(runner.out, recipe, name, side))
        done = yield from runner.do(build_stage(runner.out, recipe, name, side))
        folders[side] = done.folder / "engine"
    return folders


def torch_model(out: Path, side: str) -> str:
    """What the torch target runs: the dense model, or OUT/model."""
    if side == "compressed":
        return str((out / "model").resolve())
    model = read_lock(out)["model"]
    return str(model["name"] if model["name"] == "demo" else model["folder"])


def bench_stage(out: Path, recipe: Recipe, name: str) -> Stage:
    """Dense against compressed on one target: engine calls, whole images, memory, parity."""
    from diffc.chain.images import loop_digest, loop_options
    from diffc.measure.compare import measure_loop, measure_target
    from diffc.measure.engines import MeasureOptions
    from diffc.measure.environment import read_environment
    from diffc.measure.latency import LatencyOptions

    folders = {side: engine_folder(out, name, side) for side in SIDES}
    options = recipe.measure
    measure = MeasureOptions(
        batch=recipe.build.batch,
        threads=recipe.build.threads,
        latency=LatencyOptions(rounds=options.runs, seconds=options.seconds),
        references={side: reference_file(out, side) for side in SIDES},
    )
    loop = MeasureOptions(
        threads=recipe.build.threads,
        latency=LatencyOptions(rounds=options.loop_runs, seconds=0.0),
        loop=loop_options(out, recipe, name),
    )
    environment = read_environment()
    inputs = {
        "engines": {side: engine_digest(folder) for side, folder in folders.items()},
        "references": {side: file_digest(path) for side, path in measure.references.items()},
        "images": loop_digest(loop.loop),
        "options": options.model_dump(mode="json"),
        "batch": recipe.build.batch,
        "fingerprint": environment.fingerprint,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        results = yield from measure_target(folders["dense"], folders["compressed"], measure)
        whole = yield from measure_loop(folders["dense"], folders["compressed"], loop)
        return {
            "targets": [result.model_dump(mode="json") for result in results],
            "pipeline": whole.model_dump(mode="json"),
            "environment": environment.model_dump(mode="json"),
        }

    return Stage(f"bench-{name}", 6, inputs, run)


def _onnx_digest(folder: Path) -> str:
    """What an ONNX folder is, for a stage's key: model.json, which has the ONNX file's hash.

    Engines carry it whole: the scheduler, the sizes that they serve, the guidance's null.
    """
    return file_digest(folder / DESCRIPTION)


def _with_reference(folder: Path) -> list[str]:
    """The same with what torch gave, which precisions are calibrated and judged by."""
    reference = folder / REFERENCE
    return [_onnx_digest(folder), file_digest(reference) if reference.is_file() else ""]
