"""Networks at their published size, exported and converted: small ones do not stand for them.

    python -m bench.full_size [--networks sd15 dit-xl-2]     writes bench/results/full_size.json

Protobuf takes no message above 2 GiB, and half of the denoisers that people use are larger. Each
network has random weights in fp32 and goes through, each step in a process of its own:

    export    diffc's ONNX folder, and what torch computes
    convert   the file in fp16
    run       both files in ONNX Runtime on the CPU, against torch; an error over diffc's tolerance
              for the precision ends the benchmark

Seconds and peak resident memory are those of the whole process of a step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.gpu.networks import NETWORKS
from diffc.measure.environment import read_environment
from diffc.measure.parity import TOLERANCE

RESULT = Path(__file__).parent / "results" / "full_size.json"
STEPS = ("export", "convert", "run")
PRECISIONS = ("fp32", "fp16")


def main() -> None:
    """Every step of every network, or one step of one in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["sd15", "dit-xl-2"], choices=NETWORKS)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=3, metavar=("STEP", "NETWORK", "FOLDER"))
    args = parser.parse_args()
    if args.child:
        step, name, folder = args.child
        print(json.dumps(child(step, name, Path(folder))))
        return
    rows = {name: measured(name) for name in args.networks}
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "weights": "random",
        "networks": rows,
        "environment": read_environment().model_dump(mode="json"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def measured(name: str) -> dict[str, Any]:
    """One network's steps."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS:
            done = subprocess.run(
                [sys.executable, "-m", "bench.full_size", "--child", step, name, folder],
                check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
            )  # fmt: skip
            found[step] = json.loads(done.stdout.splitlines()[-1])
            print(name, step, found[step], flush=True)
    return found


def child(step: str, name: str, folder: Path) -> dict[str, Any]:
    """One step in this process: what it says, its seconds and its peak."""
    start = time.perf_counter()
    said = {"export": export, "convert": convert, "run": run}[step](name, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**said, "seconds": time.perf_counter() - start, "peak_bytes": peak}


def export(name: str, folder: Path) -> dict[str, Any]:
    """The network with random weights as an ONNX folder; inputs and torch's output beside it."""
    import diffusers
    import torch

    from diffc.models.families import family as family_of
    from diffc.models.families.examples import example_inputs
    from diffc.models.onnx_export import export_denoiser

    network = NETWORKS[name]
    torch.manual_seed(0)
    model = getattr(diffusers, network.class_name)(**network.config).eval()
    family = family_of(network.class_name)
    specs = family.specs(model.config)
    inputs = example_inputs(specs, model.config, 1, torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = family.call(model, inputs)
    tensors = {**inputs, "output": output}
    save_file({k: v.contiguous().numpy() for k, v in tensors.items()}, folder / "io.safetensors")
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


def size_of(folder: Path) -> int:
    """Bytes of the ONNX file and its data."""
    return sum(path.stat().st_size for path in folder.glob("model.onnx*"))


if __name__ == "__main__":
    main()
