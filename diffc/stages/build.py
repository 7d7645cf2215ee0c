"""The build stages: an engine of each side. OUT/engines/TARGET/SIDE.

Nothing here imports torch or diffusers, so an output folder made on one machine is finished on
another with diffc and the runtime only.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from diffc.errors import RequestError, UnavailableError
from diffc.models.shipped import is_shipped
from diffc.output import SIDES, lora_texts, onnx_folder, read_lock
from diffc.recipe import BuildSection, Recipe
from diffc.runner import Stage, StageEvent, StageFolder, StageRunner
from diffc.stage_inputs import FileInput
from diffc.stage_outcomes import BuildOutcome
from diffc.stages.precision import (
    needs_file_of_its_own,
    onnx_digest,
    precision_folder,
    precision_stage,
)
from diffc_export.cache import cache_folder
from diffc_export.events import Work

ENGINE = "engine"


@dataclass(frozen=True)
class TorchInput:
    """The model that the torch target runs in place of the ONNX file.

    Attributes:
        model: Its name or folder. The folder is part of the key: the engine says where to load.
        digest: Of its config and weights.
        variant: How torch runs it: eager, compiled, or as CUDA graphs.
    """

    model: str
    digest: str
    variant: str


@dataclass(frozen=True)
class BuildInputs:
    """What an engine follows from.

    Attributes:
        onnx: The ONNX folder, which model.json stands for.
        target: The target.
        precision: The precision asked for.
        batch: The batch sizes that it serves.
        one_profile: Whether one profile serves them all.
        gpu: Compute capabilities to build for; empty for this machine.
        threads: CPU threads; None: the machine's cores.
        versions: Of the target's libraries.
        device: What the engine is built for.
        torch: For the torch target, the model.
    """

    onnx: FileInput
    target: str
    precision: str
    batch: tuple[int, ...]
    one_profile: bool
    gpu: tuple[str, ...]
    threads: int | None
    versions: dict[str, str]
    device: object
    torch: TorchInput | None


def build_stage(
    out: Path, recipe: Recipe, name: str, side: str
) -> Stage[BuildInputs, BuildOutcome]:
    """One engine: OUT/engines/TARGET/SIDE."""
    from diffc_export.targets import target

    options, chosen = recipe.build, target(name)
    written = precision_folder(name, options.precision)
    own_file = needs_file_of_its_own(name, options.precision)
    folder = out / "onnx" / written / side if own_file else onnx_folder(out, side)
    status = chosen.status()
    inputs = BuildInputs(
        onnx=FileInput(folder, onnx_digest(folder)),
        target=name,
        precision=options.precision,
        batch=options.batch,
        one_profile=options.one_profile,
        gpu=options.gpu,
        threads=options.threads,
        versions=dict(status.versions),
        device=status.device,
        torch=_torch_input(out, side, options.torch) if chosen.facts.runs_torch else None,
    )
    places = {ENGINE: f"engines/{name}/{side}"}
    return Stage(f"build-{name}-{side}", 3, inputs, build, BuildOutcome, places)


def build(inputs: BuildInputs, folder: StageFolder) -> Work[BuildOutcome]:
    """Build the engine."""
    from diffc_export.targets import target
    from diffc_export.targets.base import BuildOptions

    options = BuildOptions(
        batch=inputs.batch,
        gpu=inputs.gpu,
        threads=inputs.threads,
        precision=inputs.precision,
        cache=cache_folder() / "timing",
        model=None if inputs.torch is None else inputs.torch.model,
        variant="" if inputs.torch is None else inputs.torch.variant,
        one_profile=inputs.one_profile,
    )
    chosen = target(inputs.target)
    info = yield from chosen.build(inputs.onnx.path, options, folder.out / ENGINE)
    return BuildOutcome(precision_found=info.precision_found, engine_bytes=info.engine_bytes)


def engine_stages(
    runner: StageRunner, recipe: Recipe, name: str
) -> Generator[StageEvent, None, dict[str, Path]]:
    """Both sides' engines, from an ONNX file in their precision; returns where the cache has them.

    recipe: as ``for_target`` gives it.
    """
    folders = {}
    for side in SIDES:
        if needs_file_of_its_own(name, recipe.build.precision):
            yield from runner.do(precision_stage(runner.out, recipe, name, side))
        done = yield from runner.do(build_stage(runner.out, recipe, name, side))
        folders[side] = done.folder / ENGINE
    return folders


def _torch_input(out: Path, side: str, variant: str) -> TorchInput:
    from diffc.models.loras.files import find_with_loras

    model = torch_model(out, side)
    return TorchInput(model, find_with_loras(model).digest, variant)


def torch_model(out: Path, side: str) -> str:
    """What the torch target runs: the dense model with its LoRAs, or OUT/model."""
    from diffc.models.loras.files import model_text

    if side == "compressed":
        return str((out / "model").resolve())
    lock = read_lock(out)
    model = lock["model"]
    name = str(model["name"] if is_shipped(str(model["name"])) else model["folder"])
    return model_text(name, lora_texts(lock))


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
