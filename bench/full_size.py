"""Networks at their published size, exported and converted: small ones do not stand for them.

    python -m bench.full_size [--networks sd15 dit-xl-2]     writes bench/results/full_size.json
    python -m bench.full_size --networks flux-eighth --out bench/results/full_size_blocks.json
    python -m bench.full_size --networks sd15-two-levels sd15-parts \
        --out bench/results/full_size_engines.json
    python -m bench.full_size --networks sd15-two-levels-64 dit-six-blocks \
        --out bench/results/full_size_lower.json
    python -m bench.full_size --networks sd15-run --out bench/results/full_size_run.json
    python -m bench.full_size --networks sdxl --out bench/results/full_size_sdxl.json
    python -m bench.full_size --networks sd15-side-8 --out bench/results/full_size_int8.json

Protobuf takes no message above 2 GiB, and half of the denoisers that people use are larger. Each
network has random weights in fp32 and goes through, each step in a process of its own:

    write     the weights, as a model's folder
    export    diffc's ONNX folder, and what torch computes
    convert   the file in fp16
    whole     a run at a small side: importance with few passes, cut, repair, 20 steps of
              distillation, exports, engines of ort-cpu and openvino with their parity, the ladder:
              the peak of every stage beside what ``diffc plan`` says of it. With one that is more
              than a tenth off, or more than 14 GB in all, the benchmark fails once it has written
    blocks    repair and 2 steps in which each block learns alone, likewise
    engine    what was cut there as an engine of OpenVINO, at its own size, against torch
    engines   a run from samples that the dense model draws to the ladder, with engines of ort-cpu
              and openvino, likewise; of a network whose weights take up to a GB, so that also
              stages of 500 MB are looked at. ``sd15-parts`` is a whole pipeline: text encoder and
              VAE of SD 1.5, which are exported and built beside a small denoiser.
              ``sd15-two-levels-64`` has SD 1.5's own latents, where attention takes most
    lower     the same run with engines of openvino in int8 and of trt-rtx in fp16, likewise. Which
              layers stay in fp32 decides what an int8 file has: estimates are for the bytes that it
              turned out to have
    auto      the choice of --precision auto among the engines of openvino, likewise
    reference what torch gives along a trajectory, and at several noise levels
    int8      the file in int8, from few and small calls: 8 x 8 latents, one trajectory
    run       both files in ONNX Runtime on the CPU, against torch; an error over diffc's tolerance
              for the precision ends the benchmark

Seconds and peaks are those of the whole process of a step: ``peak_bytes`` of resident memory with
the pages of mapped files, which the system takes back when memory is short, and ``own_peak_bytes``
without them. Export and conversions must stay below ``limit_bytes``, or the benchmark ends.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.full_size_engine import engine
from bench.full_size_int8 import int8, int8_shares, reference
from bench.full_size_networks import NETWORKS
from bench.full_size_pipeline import write_pipeline
from bench.own_memory_watcher import own_memory
from bench.random_weights import write_model
from diffc.measure.environment import read_environment
from diffc.measure.parity import TOLERANCE

RESULT = Path(__file__).parent / "results" / "full_size.json"
WATCHER = Path(__file__).parent / "own_memory_watcher.py"
"""The program that writes down the peak of this process's own memory."""
STEPS = ("write", "export", "convert", "run")
SIDE, TOKENS, RATIO = 8, 77, 0.5
"""Of the latents and texts in the training, and what is cut there."""
TENTH, LARGE, LARGE_RUN = 0.1, 1e9, 5e8
"""How far an estimate may be off, and from how many bytes on that is looked at; the same of the
smaller networks whose engines are built."""
CHAIN = {
    "prune": {"allocate": "global", "importance": {"passes": 2, "batch": 1, "grid": 2,
                                                   "curve_images": 1}},
    "repair": {"rows": 16},
    "data": {"images": 8, "guidance": 1.0},
    "distill": {"steps": 20, "batch": 1, "warmup": 1, "quality_every": 0,
                "gradient_checkpointing": True},
    "quality": {"images": 2},
    "reference_loop": "deterministic:2",
}  # fmt: skip
ENGINES = {
    "loops": ["ddim:1"],
    "build": {"target": ["ort-cpu", "openvino"]},
    "measure": {"runs": 10, "seconds": 0.0, "loop_runs": 1},
}
RUN = {
    "prune": {"allocate": "uniform", "cut": "width", "importance": {"method": "random"}},
    "repair": {"mode": "off"},
    "data": {"images": 32, "batch": 32, "steps": 1, "guidance": 1.0},
    "distill": {"steps": 0},
    "quality": {"images": 1},
    "reference_loop": "deterministic:2",
    **ENGINES,
}
"""Of a network whose engines are built: stages that other benchmarks look at do little."""
LOWER = {
    **RUN,
    "build": {
        "target": ["openvino", "trt-rtx"],
        "each": {"openvino": {"precision": "int8"},
                 "trt-rtx": {"precision": "fp16", "gpu": ["sm86"]}},
    },
}  # fmt: skip
"""The same in precisions that every processor can build, for a GPU that need not be here."""
AUTO = {**RUN, "build": {"target": ["openvino"], "precision": "auto"}}
STEPS_OF = {
    "sd15": STEPS,
    "sd15-run": ("write", "whole"),
    "dit-xl-2": STEPS,
    "sdxl": (*STEPS[:3], "blocks", "engine"),
    "flux-eighth": ("write", "blocks"),
    "sd15-side-8": ("write", "export", "reference", "int8"),
    "sd15-two-levels": ("write", "engines"),
    "sd15-two-levels-64": ("write", "engines"),
    "sd15-parts": ("write", "engines"),
    "dit-six-blocks": ("write", "engines", "lower", "auto"),
}
"""Network -> its steps. ONNX Runtime runs SDXL's files in more memory than many machines have."""
STREAMS = ("export", "convert", "int8")
MOST = 14e9
"""Bytes of its own that a whole run of SD 1.5 may take."""
LIMIT_SHARE, LIMIT_BYTES = 1.25, 1.5e9
"""A stream's own memory is at most this share of the fp16 weights, and so many bytes more."""
PRECISIONS = ("fp32", "fp16")


def main() -> None:
    """Every step of every network, or one step of one in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(STEPS_OF), choices=STEPS_OF)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=3, metavar=("STEP", "NETWORK", "FOLDER"))
    args = parser.parse_args()
    if args.child:
        step, name, folder = args.child
        row = child(step, name, Path(folder))
        if step in STREAMS:
            row["limit_bytes"] = limit(step, name, row["own_peak_bytes"], Path(folder))
        print(json.dumps(row))
        return
    rows = dict[str, Any]()
    for name in args.networks:
        rows[name] = measured(name)
        result = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "weights": "random",
            "networks": rows,
            "environment": read_environment().model_dump(mode="json"),
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")  # the next one takes long
    beyond = [
        f"{name}: {words}"
        for name, steps in rows.items()
        for facts in steps.values()
        for words in facts.get("beyond", ())
    ]
    if beyond:  # the result is written: it shows how far off each is
        raise SystemExit("\n".join(beyond))


def measured(name: str) -> dict[str, Any]:
    """One network's steps."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS_OF[name]:
            done = subprocess.run(
                [sys.executable, "-m", "bench.full_size", "--child", step, name, folder],
                check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
            )  # fmt: skip
            found[step] = json.loads(done.stdout.splitlines()[-1])
            print(name, step, found[step], flush=True)
    return found


def child(step: str, name: str, folder: Path) -> dict[str, Any]:
    """One step in this process: what it says, its seconds and its peaks."""
    start = time.perf_counter()
    steps = {"write": write, "export": export, "convert": convert, "run": run}
    steps |= {"whole": whole, "blocks": blocks, "engines": engines, "lower": lower}
    steps |= {"reference": reference, "int8": int8, "engine": engine, "auto": auto}
    with OwnMemory() as memory:
        facts = steps[step](name, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.perf_counter() - start
    return {**facts, "seconds": seconds, "peak_bytes": peak, "own_peak_bytes": memory.peak}


def limit(step: str, name: str, own_peak: int, folder: Path) -> float:
    """Bytes that a stream may take in a process of its own.

    Raises SystemExit where it took more.
    """
    most = LIMIT_SHARE * size_of(folder / "fp32") / 2 + LIMIT_BYTES
    if own_peak > most:
        raise SystemExit(f"{step} of {name} took {own_peak / 1e9:.2f} GB, not {most / 1e9:.2f}")
    return most


class OwnMemory:
    """The most memory of this process beyond mapped files, looked at a hundred times a second.

    By a process of its own: a thread waits for what reads or checks a graph, which takes most.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("peak")
        os.truncate(self._file, 8)
        self._shared = mmap.mmap(self._file, 8)
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def peak(self) -> int:
        """Bytes, since the beginning or since it was set."""
        return int.from_bytes(self._shared[:8], "little")

    @peak.setter
    def peak(self, value: int) -> None:
        self._shared[:8] = value.to_bytes(8, "little")

    def __enter__(self) -> OwnMemory:
        pid = str(os.getpid())
        command = [sys.executable, "-I", WATCHER, pid, f"/proc/{pid}/fd/{self._file}"]
        self._watcher = subprocess.Popen(command)
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, own_memory(os.getpid()) or 0)
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()


WATCHED = OwnMemory()
"""The memory of one stage of a run."""


def return_freed_memory() -> None:
    """Have glibc give back what was freed: it keeps gigabytes of an earlier stage for the next."""
    ctypes.CDLL(None).malloc_trim(0)


def write(name: str, folder: Path) -> dict[str, Any]:
    """A model's folder with the network's weights in fp32."""
    if name == "sd15-parts":
        return {"parameters": write_pipeline(folder)}
    return {"parameters": write_model(NETWORKS[name], folder)}


def export(name: str, folder: Path) -> dict[str, Any]:
    """The network with random weights as an ONNX folder; inputs and torch's output beside it."""
    import torch

    from diffc.models.families import family as family_of
    from diffc.models.families.examples import example_inputs
    from diffc.models.mapped import mapped_denoiser
    from diffc.models.onnx_export import export_denoiser
    from diffc.models.source import find_source

    family = family_of(NETWORKS[name].class_name)
    with mapped_denoiser(find_source(folder / "model")) as model:
        specs = family.specs(model.config)
        inputs = example_inputs(specs, model.config, 1, torch.Generator().manual_seed(1))
        with torch.no_grad():
            output = family.call(model, inputs)
        tensors = {**inputs, "output": output}
        save_file(
            {k: v.contiguous().numpy() for k, v in tensors.items()}, folder / "io.safetensors"
        )
        export_denoiser(model, family, specs, folder / "fp32")
        count = sum(p.numel() for p in model.parameters())
    return {"parameters": count, "bytes": size_of(folder / "fp32")}


def convert(_name: str, folder: Path) -> dict[str, Any]:
    """The fp16 file of the fp32 one."""
    from diffc_export.onnx.precision import convert_precision

    convert_precision(folder / "fp32", folder / "fp16", "fp16")
    return {"bytes": size_of(folder / "fp16")}


def run(_name: str, folder: Path) -> dict[str, Any]:
    """Each file's relative L2 error to torch. Raises SystemExit above the tolerance."""
    import onnxruntime

    feed = load_file(folder / "io.safetensors")
    expected = feed.pop("output")
    errors = {}
    for precision in PRECISIONS:
        path = folder / precision / "model.onnx"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, feed)[0]
        errors[precision] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        if not errors[precision] <= TOLERANCE[precision]:
            raise SystemExit(f"{precision} is {errors[precision]:.1e} from torch")
    return {"error": errors}


def whole(name: str, folder: Path) -> dict[str, Any]:
    """A run of a network from its ranking to the ladder, and what each stage took."""
    row = chain(name, folder, {**CHAIN, **ENGINES})
    peak = max(took["own_peak_bytes"] for took in row["stages"].values())
    if peak > MOST:
        row["beyond"].append(f"a stage took {peak / 1e9:.2f} GB")
    return row


def blocks(name: str, folder: Path) -> dict[str, Any]:
    """The same without gradients of the whole network: each block learns alone."""
    importance = {**CHAIN["prune"]["importance"], "method": "magnitude"}
    learning = {"steps": 0, "block_local": {"steps": 2, "rows": 8, "batch": 2}}
    prune = {**CHAIN["prune"], "importance": importance}
    return chain(name, folder, {**CHAIN, "prune": prune, "distill": learning})


def engines(name: str, folder: Path) -> dict[str, Any]:
    """The chain of a network to its end, at its own size, of samples that the dense model draws."""
    few: dict[str, Any] = {}
    if name.endswith("-64"):  # samples are larger, and calls take seconds
        few["data"] = {**RUN["data"], "images": 4, "batch": 4}
        few["measure"] = {**RUN["measure"], "frontier": "off", "explain": "off"}
    return chain(name, folder, {**RUN, **few}, drawn=True, large=LARGE_RUN)


def lower(name: str, folder: Path) -> dict[str, Any]:
    """The same with engines in lower precisions."""
    return chain(name, folder, LOWER, drawn=True, large=LARGE_RUN, to="out-lower")


def auto(name: str, folder: Path) -> dict[str, Any]:
    """The choice among precisions; the steps before have built most of its engines."""
    return chain(name, folder, AUTO, drawn=True, large=LARGE_RUN, to="out-auto", prefix="choose")


def chain(
    name: str,
    folder: Path,
    given: dict[str, Any],
    *,
    drawn: bool = False,
    large: float | None = None,
    to: str = "out",
    prefix: str = "",
) -> dict[str, Any]:
    """The stages of a run on random data, and what each took.

    Args:
        name: Of the network.
        folder: Where ``write`` has put it.
        given: The run's options. Without ``build`` the run ends with its pictures.
        drawn: Whether the dense model draws the samples, at its own size; else random samples of a
            small side are given.
        large: The bytes from which on an estimate is looked at; None: ``LARGE``.
        to: The output folder's name.
        prefix: Of the names of the stages that are looked at.

    Returns:
        ``beyond`` has what lies beyond its limit, in words.
    """
    import diffc
    from diffc.data.recipe_of_model import recipe_of_model
    from diffc.models.families.examples import example_inputs
    from diffc.models.inputs import input_specs
    from diffc.models.source import find_source
    from diffc.prune.plan import Plan
    from diffc.stages.call_memory import call_bytes
    from diffc.stages.needs import stage_needs, tensor_sizes
    from diffc.stages.uncut_memory import uncut_parts

    source, data = find_source(folder / "model"), folder / "data.safetensors"
    out = folder / to
    specs = input_specs(source, None if drawn else SIDE, TOKENS)
    rows = example_inputs(specs, source.config, 8)
    left_out = ("timestep", "sample") if drawn else ("timestep",)
    save_file({k: v.contiguous().numpy() for k, v in rows.items() if k not in left_out}, data)
    os.environ["DIFFC_CACHE"] = str(folder / "cache")
    options = {**given, "export": {} if drawn else {"resolution": SIDE}}
    options["data"] = {**options["data"], "source": str(data)}
    stages = StagePeaks()
    with WATCHED:
        diffc.compile(
            folder / "model", ratio=RATIO, out=out, options=options,
            stop="bench" if "build" in given else "distill", on_event=stages.note,
        )  # fmt: skip
    plan = Plan.read(out / "plan.json")
    dense, small = plan.dense.params, plan.compressed.params
    recipe = recipe_of_model(source, None, options)
    calls = call_bytes(source, recipe, out / "plan.json")
    uncut = uncut_parts(source, recipe)
    needs = stage_needs(
        dense, small, recipe, calls, on_gpu=False, uncut=uncut, tensor_sizes=tensor_sizes(source),
        shares=int8_shares(out),
    )  # fmt: skip
    for one in needs:
        if one.stage in stages.rows:
            stages.rows[one.stage]["estimated_bytes"] = one.memory_bytes
    row = {"stages": stages.rows, "parameters": {"dense": dense, "compressed": small}}
    looked_at = {stage: took for stage, took in stages.rows.items() if stage.startswith(prefix)}
    row["beyond"] = list(_beyond(looked_at, LARGE if large is None else large))
    return row


def _beyond(stages: dict[str, dict[str, Any]], large: float) -> Iterator[str]:
    """Every stage that took a tenth more or less than was estimated, in words."""
    for stage, took in stages.items():
        expected, peak = took.get("estimated_bytes"), took["own_peak_bytes"]
        if expected and max(expected, peak) > large and abs(peak - expected) > TENTH * expected:
            yield f"{stage} took {peak / 1e9:.2f} GB, not {expected / 1e9:.2f}"


class StagePeaks:
    """Seconds and own memory of each stage of a run, from its events."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self._begun = time.perf_counter()

    def note(self, event: Any) -> None:
        """Take one event of the run."""
        if event.kind == "started":
            return_freed_memory()
            self._begun, WATCHED.peak = time.perf_counter(), 0
        elif event.kind == "finished":
            seconds = time.perf_counter() - self._begun
            self.rows[event.stage] = {"seconds": seconds, "own_peak_bytes": WATCHED.peak}
            print(event.stage, self.rows[event.stage], file=sys.stderr, flush=True)


def size_of(folder: Path) -> int:
    """Bytes of the ONNX file and its data."""
    return sum(path.stat().st_size for path in folder.glob("model.onnx*"))


if __name__ == "__main__":
    main()
