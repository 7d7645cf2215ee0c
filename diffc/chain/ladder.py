"""The stage that finds where the speed-up comes from: see diffc.measure.explain.

Its torch rungs need the training packages and the dense model. Where either is missing, as on a
target machine that OUT was copied to, they are left out with the reason; the engines' rungs stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffc.chain.back import (
    SIDES,
    engine_folder,
    onnx_folder,
    reference_file,
    torch_model,
)
from diffc.errors import InputError
from diffc.output import read_lock
from diffc.recipe import Recipe
from diffc.stages import Room, Stage
from diffc_export.cache import cache_folder
from diffc_export.events import Work
from diffc_export.targets.engine import engine_digest
from diffc_runtime.files import file_digest

if TYPE_CHECKING:
    from diffc.measure.explain import Step

_MOST_ROUNDS, _MOST_SECONDS, _WARM_UP = 15, 2.0, 1.0


def explain_stage(out: Path, recipe: Recipe, name: str) -> Stage | None:
    """The ladder of one target; None where it is not wanted, or where its engines cannot run."""
    from diffc.measure.environment import read_environment
    from diffc_export.targets import target

    chosen = target(name)
    if chosen.facts.runs_torch or recipe.measure.explain == "off" or not chosen.status().runnable:
        return None
    model = read_lock(out)["model"]
    no_torch = why_no_torch(model)
    references = {side: reference_file(out, side) for side in SIDES}
    inputs = {
        "engines": {side: engine_digest(engine_folder(out, name, side)) for side in SIDES},
        "references": {side: file_digest(path) for side, path in references.items()},
        "model": model["digest"],
        "no_torch": no_torch,
        "options": recipe.measure.model_dump(mode="json"),
        "build": recipe.build.model_dump(mode="json", exclude={"target", "each"}),
        "fingerprint": read_environment().fingerprint,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        from diffc.measure.engines import MeasureOptions
        from diffc.measure.explain import explain
        from diffc.measure.latency import LatencyOptions

        asked = recipe.measure
        timing = LatencyOptions(
            rounds=min(asked.runs, _MOST_ROUNDS),
            seconds=min(asked.seconds, _MOST_SECONDS),
            most_seconds=60.0,
            warmup_seconds=_WARM_UP,
        )
        measure = MeasureOptions(
            threads=recipe.build.threads, latency=timing, references=references
        )
        steps = yield from _steps(out, recipe, name, no_torch, room.scratch)
        ladders = yield from explain(steps, recipe.build.batch, measure)
        return {"ladders": [ladder.model_dump(mode="json") for ladder in ladders]}

    packages = () if no_torch else ("torch", "diffusers")  # what is listed here is imported
    return Stage(f"explain-{name}", 3, inputs, run, packages=packages)


def why_no_torch(model: Mapping[str, Any]) -> str | None:
    """Why the dense model cannot be run in torch here, by what is cheap to see; None when it can.

    model: as recipe.lock.yaml has it.
    """
    from diffc.torch_target import TARGET as TORCH

    status = TORCH.status()
    if not status.runnable:
        return status.reason
    if model["name"] != "demo" and not Path(model["folder"]).is_dir():
        return f"the dense model is not on this machine ({model['folder']})"
    return None


def _steps(
    out: Path, recipe: Recipe, name: str, no_torch: str | None, scratch: Path
) -> Work[list[Step]]:
    """Every rung in order; engines that OUT does not hold are built into ``scratch``."""
    from diffc.measure.explain import Step

    precision = recipe.build.precision
    dense, small = (engine_folder(out, name, side) for side in SIDES)
    graphs = captures(name, recipe)
    steps = yield from _torch_steps(out, recipe, no_torch, scratch)
    plain = dense
    if precision != "fp32":
        plain = yield from _plain_engine(out, recipe, name, scratch)
    steps.append(Step("dense engine, fp32", "engine", plain, captured=not graphs))
    if precision != "fp32":
        step = Step(f"dense engine, {precision}", "precision", dense, captured=not graphs)
        steps.append(step)
    captured = ", captured" if graphs else ""
    if graphs:
        steps.append(Step(f"dense engine, {precision}{captured}", "graph capture", dense))
    steps.append(Step(f"compressed engine, {precision}{captured}", "pruning", small))
    return steps


def captures(name: str, recipe: Recipe) -> bool:
    """Whether this target's engines run as CUDA graphs in a run of ``recipe``."""
    from diffc_export.targets import target

    graphs = target(name).facts.graphs
    single = len(set(recipe.build.batch)) == 1 and not recipe.export.sizes
    return graphs == "always" or (graphs == "one shape" and single)


def _torch_steps(
    out: Path, recipe: Recipe, no_torch: str | None, scratch: Path
) -> Work[list[Step]]:
    """torch eager, and compiled where that was asked for: it takes a minute to compile."""
    from diffc.measure.explain import Step

    steps = []
    variants = {"eager": "", "compiled": "compiling"}
    if recipe.measure.explain != "full":
        del variants["compiled"]
    for variant, cause in variants.items():
        label = f"torch {variant}, fp32"
        folder, reason = scratch / f"torch-{variant}", no_torch
        if reason is None:
            reason = yield from _torch_engine(out, recipe, variant, folder)
        steps.append(Step(label, cause, None if reason else folder, absent=reason))
    return steps


def _torch_engine(out: Path, recipe: Recipe, variant: str, folder: Path) -> Work[str | None]:
    """Build torch's engine folder of the dense model; why not, where it is another model now."""
    from diffc.torch_target import TARGET as TORCH
    from diffc_export.targets.base import BuildOptions

    model = read_lock(out)["model"]
    options = BuildOptions(
        batch=recipe.build.batch, threads=recipe.build.threads, model=torch_model(out, "dense"),
        variant=variant,
    )  # fmt: skip
    try:
        info = yield from TORCH.build(onnx_folder(out, "dense"), options, folder)
    except InputError as error:
        return str(error)
    if info.details["digest"] != model["digest"]:
        return f"the model at {model['folder']} is not the one that was compressed any more"
    return None


def _plain_engine(out: Path, recipe: Recipe, name: str, scratch: Path) -> Work[Path]:
    """The dense engine in fp32, for a run that was asked for another precision."""
    from diffc_export.targets import target
    from diffc_export.targets.base import BuildOptions

    options = BuildOptions(
        batch=recipe.build.batch, one_profile=recipe.build.one_profile,
        threads=recipe.build.threads, precision="fp32", cache=cache_folder() / "timing",
    )  # fmt: skip
    yield from target(name).build(onnx_folder(out, "dense"), options, scratch / "fp32")
    return scratch / "fp32"
