"""The stage that measures the sampling loop through a real inference server, on this machine.

Both sides' bundles are served one after the other; beside each, the same loop in this process, so
that what the server adds can be told from what the engine takes.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffc.errors import UnavailableError
from diffc.measure.loop import LoopOptions
from diffc.measure.results import Served
from diffc.output import SIDES, engine_folder
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput
from diffc.stage_outcomes import ServeOutcome
from diffc.stages.bench import MachineInput, engine_inputs
from diffc.stages.images import ImageInput, image_input
from diffc_export.events import Progress, Work
from diffc_runtime.json_types import JsonDict

CONCURRENCY = (1, 4, 16)
_SECONDS, _REPEATS = 5.0, 5


@dataclass(frozen=True)
class OutputInput:
    """An output folder, whose bundles are served.

    The key does not hold it: ``ServeInputs`` has what of it a bundle is made of.
    """

    path: Path

    def keyed(self) -> object:
        """Nothing."""
        return None


@dataclass(frozen=True)
class ServeInputs:
    """What served figures follow from.

    Attributes:
        out: The output folder.
        target: The target.
        engines: Side -> its engine folder.
        images: What making an image takes.
        threads: Of the engines; None: those that they were built with.
        server: The server's program; None where none is installed.
        absent: Why nothing can be served; None when it can.
        fingerprint: The machine.
    """

    out: OutputInput
    target: str
    engines: dict[str, FileInput]
    images: ImageInput
    threads: int | None
    server: str | None
    absent: str | None
    fingerprint: MachineInput


def serve_stage(out: Path, recipe: Recipe, name: str) -> Stage[ServeInputs, ServeOutcome] | None:
    """Served figures of one target; None where they are not wanted, or nothing serves the target.

    Where no server can be started, the reason is the result.
    """
    from diffc.bundle.server import find_triton, why_no_triton
    from diffc.measure.environment import read_environment
    from diffc_export.targets import target

    status = target(name).status()
    if recipe.measure.server is None or target(name).facts.loader is None:
        return None
    server = find_triton()
    inputs = ServeInputs(
        out=OutputInput(out),
        target=name,
        engines=engine_inputs(out, name),
        images=image_input(out, recipe, name),
        threads=recipe.build.threads,
        server=str(server.program) if server else None,
        absent=why_no_triton() if status.runnable else status.reason,
        fingerprint=MachineInput(read_environment()),
    )
    return Stage(f"serve-{name}", 4, inputs, serve, ServeOutcome, packages=("tritonclient",))


def serve(inputs: ServeInputs, folder: StageFolder) -> Work[ServeOutcome]:
    """Serve both sides, one after the other."""
    rows: list[Served] = []
    for side in SIDES:
        loop = inputs.images.of(side)
        yield Progress(len(rows), len(SIDES), f"{side} through a server")
        about = {"target": inputs.target, "side": side, "server": "triton", **_about(loop)}
        if inputs.absent is not None:
            rows.append(Served(**about, absent=inputs.absent))
            continue
        try:
            measured = _serve_side(inputs, side, folder.scratch)
        except UnavailableError as error:
            measured = {"absent": str(error)}
        rows.append(Served(**about, **measured))
    return ServeOutcome(served=rows)


def _about(loop: LoopOptions) -> JsonDict:
    """What an image is made with, as a client of the server asks for it."""
    return {
        "steps": loop.steps,
        "sampler": loop.scheduler,
        "guidance": loop.guidance,
        "decoded": loop.decoder is not None if loop.latent else None,
    }


def _serve_side(inputs: ServeInputs, side: str, scratch: Path) -> JsonDict:
    """In process first, then through the server: the two never compete."""
    from diffc.bundle import triton
    from diffc.bundle.build import write_bundle
    from diffc.bundle.served import measure_server
    from diffc.bundle.server import find_triton, run_triton

    out, name, threads = inputs.out.path, inputs.target, inputs.threads
    loop = inputs.images.of(side)
    plain, repository = scratch / f"plain-{side}", scratch / f"repository-{side}"
    write_bundle(out, plain, server="none", target=name, side=side)
    write_bundle(out, repository, server="triton", target=name, side=side)
    alone = _in_process(plain, threads, loop)
    parts = find_triton()
    if parts is not None and not parts.has_backend("onnxruntime"):
        triton.stand_in(repository, "denoiser", engine_folder(out, name, side))
        decoder = engine_folder(out, name, "decoder")
        if (repository / "decoder").is_dir():
            triton.stand_in(repository, "decoder", decoder)
    if threads is not None:
        triton.limit_threads(repository, threads)
    only = ("--model-control-mode=explicit", "--load-model=pipeline")
    with run_triton(repository, *only) as server:
        figures = measure_server(
            f"127.0.0.1:{server.grpc}", "pipeline", steps=loop.steps,
            conditions=_tensors(loop), concurrency=CONCURRENCY, seconds=_SECONDS,
        )  # fmt: skip
    first = figures["levels"][0]["latency_ms"]
    return {
        "client": figures["client"],
        "in_process_ms": alone * 1e3,
        "levels": figures["levels"],
        "overhead": first["p50"] / (alone * 1e3) if first else None,
    }


def _tensors(loop: LoopOptions) -> dict[str, Any]:
    """A request's tensors beside its number of steps: conditions, and guidance where there is."""
    import numpy as np

    from diffc_runtime.calls import served_name

    tensors = {served_name(name): value[None] for name, value in loop.conditions.items()}
    if loop.guidance != 1:
        tensors |= {f"unconditional_{n}": value[None] for n, value in loop.unconditional.items()}
        tensors["guidance"] = np.array([loop.guidance], np.float32)
    return tensors


def _in_process(bundle: Path, threads: int | None, loop: LoopOptions) -> float:
    """Seconds per image of the bundle's own loop in this process, the median."""
    from diffc_runtime import open_bundle

    pipeline = open_bundle(bundle, threads)
    how: dict[str, Any] = {
        "guidance": loop.guidance,
        "conditions": loop.conditions,
        "unconditional": loop.unconditional,
    }
    pipeline.generate(1, min(loop.steps, 3), 0, **how)
    taken = []
    for seed in range(_REPEATS):
        start = time.perf_counter()
        pipeline.generate(1, loop.steps, seed, **how)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
