"""The stage that measures the sampling loop through a real inference server, on this machine.

Both sides' bundles are served one after the other; beside each, the same loop in this process, so
that what the server adds can be told from what the engine takes.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from diffc.chain.back import SIDES, engine_folder, reference_file
from diffc.errors import UnavailableError
from diffc.events import Progress, Work
from diffc.models.source import file_digest
from diffc.recipe import Recipe
from diffc.stages import Room, Stage
from diffc.targets.engine import engine_digest

CONCURRENCY = (1, 4, 16)
_SECONDS, _REPEATS = 5.0, 5
_NOT_SERVED = ("torch", "fake")


def serve_stage(out: Path, recipe: Recipe, name: str) -> Stage | None:
    """Served figures of one target; None where they are not wanted, or nothing serves the target.

    Where no server can be started, the reason is the result.
    """
    from diffc.bundle.server import installed, why_none
    from diffc.measure.environment import read_environment
    from diffc.targets import target

    status = target(name).status()
    if recipe.measure.server is None or name in _NOT_SERVED:
        return None
    absent = why_none() if status.runnable else status.reason
    found = installed()
    references = {side: reference_file(out, side) for side in SIDES}
    inputs = {
        "engines": {side: engine_digest(engine_folder(out, name, side)) for side in SIDES},
        "references": {side: file_digest(path) for side, path in references.items()},
        "steps": recipe.measure.loop_steps,
        "server": str(found.program) if found else None,
        "absent": absent,
        "fingerprint": read_environment().fingerprint,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for side in SIDES:
            yield Progress(len(rows), len(SIDES), f"{side} through a server")
            about = {"target": name, "side": side, "server": "triton",
                     "steps": recipe.measure.loop_steps}  # fmt: skip
            if absent is not None:
                rows.append({**about, "absent": absent})
                continue
            try:
                measured = _served(out, name, side, room.scratch, recipe, references[side])
            except UnavailableError as error:
                measured = {"absent": str(error)}
            rows.append({**about, **measured})
        return {"served": rows}

    return Stage(f"serve-{name}", 1, inputs, run, packages=("tritonclient",))


def _served(
    out: Path, name: str, side: str, scratch: Path, recipe: Recipe, reference: Path
) -> dict[str, Any]:
    """In process first, then through the server: the two never compete."""
    from diffc.bundle import bundle, triton
    from diffc.bundle.served import served
    from diffc.bundle.server import installed, running

    steps, threads = recipe.measure.loop_steps, recipe.build.threads
    plain, repository = scratch / f"plain-{side}", scratch / f"repository-{side}"
    bundle(out, plain, server="none", target=name, side=side)
    bundle(out, repository, server="triton", target=name, side=side)
    conditions = _conditions(out, name, side, reference)
    alone = _in_process(plain, steps, threads, conditions)
    parts = installed()
    if parts is not None and not parts.has_backend("onnxruntime"):
        triton.stand_in(repository, "denoiser", engine_folder(out, name, side))
        decoder = engine_folder(out, name, "decoder")
        if (repository / "decoder").is_dir():
            triton.stand_in(repository, "decoder", decoder)
    if threads is not None:
        triton.limit_threads(repository, threads)
    only = ("--model-control-mode=explicit", "--load-model=pipeline")
    with running(repository, *only) as server:
        found = served(
            f"127.0.0.1:{server.grpc}", "pipeline", steps=steps, conditions=conditions,
            concurrency=CONCURRENCY, seconds=_SECONDS,
        )  # fmt: skip
    first = found["levels"][0]["latency_ms"]
    return {
        "client": found["client"],
        "in_process_ms": alone * 1e3,
        "levels": found["levels"],
        "overhead": first["p50"] / (alone * 1e3) if first else None,
    }


def _conditions(out: Path, name: str, side: str, reference: Path) -> dict[str, Any]:
    """One row of each condition, from the reference inputs."""
    from diffc.measure.inputs import reference_inputs
    from diffc.targets.engine import read_info

    info = read_info(engine_folder(out, name, side))
    rows = reference_inputs(reference)
    return {spec.name: rows[spec.name][:1] for spec in info.inputs if spec.kind == "condition"}


def _in_process(bundle: Path, steps: int, threads: int | None, conditions: dict[str, Any]) -> float:
    """Seconds per image of the bundle's own loop in this process, the median."""
    from diffc.export.runtime import open_bundle

    pipeline = open_bundle(bundle, threads)
    pipeline.generate(1, min(steps, 3), 0, conditions=conditions)
    taken = []
    for seed in range(_REPEATS):
        start = time.perf_counter()
        pipeline.generate(1, steps, seed, conditions=conditions)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
