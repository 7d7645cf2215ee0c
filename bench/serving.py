"""What serving adds to the engine: bench/results/serving.json.

    python -m bench.serving [--engine FOLDER] [--triton FOLDER] [--threads 1]
    python -m bench.serving --triton FOLDER --out bench/results/serving_onnxruntime.json
                                         FOLDER with scripts/triton_onnxruntime.sh's backend

engine     one denoiser call at batch 1 in this process, median of interleaved runs
pipeline   one image through the runtime in this process, over the engine's time x steps (<= 1.10)
runtime    everything but the engine, per step, 32x32x3, batch 1 (< 0.2 ms)
import     the runtime's import in a fresh interpreter (< 0.15 s)
served     one image through a real Triton server at concurrency 1, 4, 16, where --triton names the
           folder that scripts/triton_env.sh made; ``pipeline`` (in process) and ``pipeline_bls``.
           Engines run in Triton's backend for ONNX Runtime where scripts/triton_onnxruntime.sh
           added it, else in Python with the same interface; ``denoiser`` says which

step_ms    what a step of ``pipeline_bls`` is made of, one client, by the server's own statistics of
           the models: ``engine`` in this process; ``to_the_engine``, the rest of the denoiser's
           compute, which is the way to the process of the Python backend and back where it runs
           there; ``server``, the queue and the tensors; ``decoder``, all of the decoder's part of
           a step; ``loop``, the loop's process and its calls

prompted   with --output OUT, a run of a text model: one image of a prompt through the server, over
           the denoiser's time x steps and one call of the decoder in this process; and the
           served figures, and 64 clients for 30 seconds. A prompt that was encoded is remembered,
           so that it is encoded once.
           ``cold_start_s`` is a fresh `python BUNDLE generate PROMPT`, to its picture (< 3 s).

Without --engine, a random UNet2DModel (32x32x3) is exported and built for ort-cpu. Engine and
pipeline runs are interleaved, so that a change of the machine's speed meets both.

On a machine that is not quiet (a load of 1 or more before the start) nothing is measured, unless
--busy says that it shall be: beside other work, a loop of many short bursts in several processes
(``pipeline_bls``) gets more of the processor than one long run, and seems quicker than its own
engine. ``processor_over_engine_at_1`` counts processor time instead, which does not depend on that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np

from bench.served_step import (
    image_request,
    in_turn,
    models_ns,
    step_parts,
)
from diffc.bundle import server, triton
from diffc.bundle.build import write_bundle
from diffc.bundle.contents import find_contents
from diffc.bundle.served import measure_server
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import Pipeline, machine, open_bundle

ROOT = Path(__file__).parents[1]
WORDS = "a red sneaker"
"""The prompt."""
_KINDS = {True: "onnxruntime backend", False: "python stand-in"}
"""Where the server runs its engines, by whether it has their own backend."""


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, help="an engine folder")
    parser.add_argument("--triton", type=Path, help="scripts/triton_env.sh's folder")
    parser.add_argument("--output", type=Path, help="an output folder of a text model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each concurrency")
    parser.add_argument("--busy", action="store_true", help="measure beside other work as well")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "serving.json")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    check_quiet(load, options.busy)
    if options.output:  # before the minutes of the other figures
        find_contents(options.output, "ort-cpu", "compressed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engine = options.engine or random_engine(folder, options.threads)
        results = {**about(load, options.threads), **measure(engine, folder, options)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def check_quiet(load: float, busy: bool) -> None:
    """End with a line when the machine has other work and ``busy`` does not allow it."""
    if load >= 1 and not busy:
        sys.exit(
            f"this machine is not quiet (load {load:.1f}, below 1 needed): nothing was measured;"
            " wait, or measure beside the other work with --busy, which the result will say"
        )


def about(load: float, threads: int) -> dict:
    """When the figures were taken, and on what. load: before the start."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(load, threads),
    }


def random_engine(folder: Path, threads: int) -> Path:
    """A random UNet, exported and built for ort-cpu, batches 1 to 4."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from diffusers import UNet2DModel
    from support.onnx_folder import write_onnx_folder

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()
    source = write_onnx_folder(model, folder / "onnx")
    options = BuildOptions(batch=(1, 4), one_profile=True, threads=threads)
    drain(target("ort-cpu").build(source, options, folder / "engine"))
    return folder / "engine"


def measure(engine: Path, folder: Path, options: argparse.Namespace) -> dict:
    """Every figure."""
    write_bundle(engine, folder / "bundle", server="none")
    results = {
        "engine_parameters": json.loads((engine / "engine.json").read_text())["source"].get(
            "parameters"
        ),
        "steps": options.steps,
        "runtime_ms_per_step": runtime_cost(),
        "import_seconds": import_seconds(folder / "bundle"),
        **in_process(folder / "bundle", options),
    }
    if options.triton:
        results["served"] = through_triton(engine, folder, options)
    if options.triton and options.output:
        results["prompted"] = prompted(options.output, folder, options)
    return results


def environment(load: float, threads: int) -> dict:
    """What the figures were taken on."""
    return {
        "cpu": machine.cpu.cpu_name(),
        "cores": machine.cpu.cores(),
        "threads": threads,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "onnxruntime": machine.packages.version("onnxruntime"),
        "load_average": load,
        "quiet": load < 1,  # other work makes figures across processes meaningless
    }


def in_process(folder: Path, options: argparse.Namespace) -> dict:
    """Engine and pipeline in turn; medians, and the median of the pairs' ratios."""
    pipeline = open_bundle(folder, options.threads)
    calls = {
        "engine": engine_steps(folder, options),
        "pipeline": lambda: pipeline.generate(1, options.steps, 0),
    }
    turns = in_turn(calls, options.repeats)
    return {
        "engine_ms": statistics.median(turns.seconds["engine"]) / options.steps * 1e3,
        "pipeline_ms_per_image": statistics.median(turns.seconds["pipeline"]) * 1e3,
        "pipeline_over_engine": turns.over("pipeline", "engine"),
        "repeats": options.repeats,
    }


def engine_steps(folder: Path, options: argparse.Namespace) -> Callable[[], None]:
    """A call that runs the engine of a bundle once for each step of an image, and nothing else."""
    pipeline = open_bundle(folder, options.threads)
    rng = np.random.default_rng(0)
    kinds = {
        "sample": lambda spec: rng.standard_normal((1, *spec.shape)),
        "timestep": lambda spec: np.full(1, 500),
        "condition": lambda spec: np.zeros((1, *spec.shape)),
    }
    inputs = {spec.name: kinds[spec.kind](spec).astype(spec.dtype) for spec in pipeline.inputs}

    def run() -> None:
        for _ in range(options.steps):
            pipeline.denoise(inputs)

    return run


def runtime_cost(steps: int = 200) -> dict[str, float]:
    """Milliseconds per step with an engine that does nothing, by sampler."""
    output = np.zeros((1, 3, 32, 32), np.float32)
    pipeline = Pipeline(lambda inputs: output, {}, (3, 32, 32))
    found = {}
    for name in ("ddpm", "ddim", "dpm++"):
        times = []
        for _ in range(15):
            start = time.perf_counter()
            pipeline.generate(1, steps, 0, name)
            times.append((time.perf_counter() - start) / steps * 1e3)
        found[name] = statistics.median(times)
    return found


def import_seconds(folder: Path) -> float:
    """The median of five fresh interpreters."""
    code = "import sys, time; sys.path.insert(0, sys.argv[1]); t = time.perf_counter();"
    code += " import diffc_runtime; print(time.perf_counter() - t)"
    command = [sys.executable, "-I", "-c", code, str(folder)]
    return statistics.median(float(subprocess.check_output(command)) for _ in range(5))


def through_triton(engine: Path, folder: Path, options: argparse.Namespace) -> dict:
    """A real server: latency and throughput, and the overhead over the engine's own time."""
    native = find_server(options.triton).has_backend("onnxruntime")
    write_bundle(engine, folder / "repo", server="triton")
    if not native:
        triton.stand_in(folder / "repo", "denoiser", engine)
    triton.limit_threads(folder / "repo", options.threads)
    with server.run_triton(folder / "repo") as running:
        assert running.process is not None
        url, process = f"127.0.0.1:{running.grpc}", running.process.pid
        results = {
            model: {
                **over_engine(url, process, model, folder / "bundle", options),
                **measure_server(url, model, steps=options.steps, seconds=options.seconds),
            }
            for model in ("pipeline", "pipeline_bls")
        }
    return {**results, "denoiser": _KINDS[native]}


def find_server(folder: Path) -> server.TritonInstall:
    """The server of a folder that scripts/triton_env.sh made; from now on it is this process's."""
    os.environ[server.VARIABLE] = str(folder)
    parts = server.find_triton()
    assert parts is not None, f"{folder} holds no server"
    return parts


def prompted(out: Path, folder: Path, options: argparse.Namespace) -> dict:
    """Prompts through a real server, over the engine's and the decoder's time in this process."""
    native = find_server(options.triton).has_backend("onnxruntime")
    write_bundle(out, folder / "text-bundle", server="none", target="ort-cpu")
    models = write_bundle(out, folder / "text-repo", server="triton", target="ort-cpu").models
    for name in () if native else models:
        engine = out / "engines" / "ort-cpu" / ("compressed" if name == "denoiser" else name)
        if engine.is_dir():
            triton.stand_in(folder / "text-repo", name, engine)
    triton.limit_threads(folder / "text-repo", options.threads)
    local = open_bundle(folder / "text-bundle", options.threads)
    engine = engine_steps(folder / "text-bundle", options)
    latents = np.zeros((1, *local.sample_shape), np.float32)
    given = {"prompt": np.array([WORDS.encode()], np.object_)}
    given["guidance"] = np.array([1.0], np.float32)
    calls: dict[str, Callable[[], object]] = {
        "engine": engine,
        "decoder": lambda: local.decode and local.decode(latents),
        "in_process": lambda: local.sample(
            WORDS, num_inference_steps=options.steps, guidance_scale=1.0
        ),
    }
    results = {}
    with server.run_triton(folder / "text-repo") as running:
        url = f"127.0.0.1:{running.grpc}"
        for model in ("pipeline", "pipeline_bls"):
            with image_request(url, model, options.steps, given) as ask:
                ask()
                before = models_ns(url)
                turns = in_turn({**calls, "served": ask}, options.repeats)
                after = models_ns(url)
            levels = partial(measure_server, url, model, steps=options.steps, conditions=given)
            results[model] = {
                "latency_over_engine_at_1": turns.over("served", "engine", "decoder"),
                "in_process_over_engine": turns.over("in_process", "engine", "decoder"),
                "levels": levels(seconds=options.seconds)["levels"]
                + levels(seconds=30.0, concurrency=(64,))["levels"],
            }
        results[model]["step_ms"] = step_parts(before, after, turns.seconds, options.steps)
    cold = statistics.median(cold_start(folder / "text-bundle") for _ in range(3))
    kind = {"denoiser": _KINDS[native]}
    return {"steps": options.steps, "cold_start_s": cold, **kind, **results}


def cold_start(bundle: Path) -> float:
    """Seconds from a fresh process to a picture of a prompt."""
    picture = bundle.parent / "cold.png"
    words = ["generate", "a red sneaker", "--out", str(picture), "--force"]
    start = time.perf_counter()
    subprocess.run([sys.executable, str(bundle), *words], check=True, capture_output=True)
    return time.perf_counter() - start


def over_engine(
    url: str, process: int, model: str, folder: Path, options: argparse.Namespace
) -> dict:
    """A request at concurrency 1 over the engine's steps in this process, in turn with them.

    By the clock, the median of the pairs; and in processor time, the server's over this process's.
    """
    with image_request(url, model, options.steps) as ask:
        ask()
        before = models_ns(url)
        turns = in_turn(
            {"engine": engine_steps(folder, options), "served": ask},
            options.repeats,
            {"engine": os.getpid(), "served": process},
        )
        after = models_ns(url)
    results = {
        "latency_over_engine_at_1": turns.over("served", "engine"),
        "processor_over_engine_at_1": turns.processor["served"] / turns.processor["engine"],
    }
    if model == "pipeline_bls":
        results["step_ms"] = step_parts(before, after, turns.seconds, options.steps)
    return results


if __name__ == "__main__":
    main()
