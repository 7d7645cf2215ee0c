"""diffc's engines beside what people use today: same machine, one process, in turn.

    python -m bench.peers --work DIR --prepare      exports, conversions, pruning, int8: no timing
    python -m bench.peers --work DIR                times what is prepared: leave the machine alone

    [--models cifar demo sd dit] [--batch 1 8] [--rounds N] [--seconds S] [--limit MINUTES]
    [--again] [--cifar FOLDER] [--allocate uniform|latency] [--threads N]
    [--precisions fp32 bf16]             of diffc's own engines: int8 takes a while to calibrate

Models: CIFAR's 35.7 M UNet, the demo, a small UNet2DConditionModel as Stable Diffusion's, and a DiT
of DiT-S/2's size at 32 x 32 latents. All but the demo have random weights, unless --cifar names a
trained pipeline; their last layer is fitted by least squares so that they denoise, for int8 is
calibrated on denoising trajectories.

Candidates, each dense and at half the MACs where its maker can cut:

    torch eager, torch.compile (both under bf16 autocast too)
    onnxruntime    a plain torch.onnx.export of the module at the batch's shape (torch-pruning's
                   own pruned model goes the same way); and optimum's exporter's, by tracing
    openvino       ov.convert_model of the module, in bf16 too; int8 by nncf where it is installed
    diffc          ort-cpu and openvino in fp32, bf16 and int8

bf16 is measured where the processor has it. Same threads, and fp32 stated to OpenVINO, which takes
bf16 by itself where there is any. Every candidate is run on the same noisy inputs; diffc's and the
dense peers' say whether parity held, and one that fails it is never the fastest. One section of
bench/results/peers.json for each model and batch, written when done and kept by the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from importlib import metadata
from pathlib import Path

import torch

from bench.peers.candidate import say
from bench.peers.figures import section
from bench.peers.models import MODELS
from bench.peers.ours import PRECISIONS, ours
from bench.peers.subject import Subject
from bench.peers.theirs import peers
from diffc.measure.environment import read_environment

RESULT = Path(__file__).parents[1] / "results" / "peers.json"
PACKAGES = ("torch", "onnxruntime", "openvino", "diffusers", "torch-pruning", "optimum", "nncf")


def optimum_reason() -> str:
    """Why optimum's exporter is or is not here."""
    try:
        return (
            f"optimum-onnx {metadata.version('optimum-onnx')} is installed; it calls torch's tracer"
        )
    except metadata.PackageNotFoundError:
        return ("optimum-onnx 0.1 needs transformers < 4.58 and knows no UNet2DModel; "
                "its tracer is measured as 'traced export'")  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--cifar", type=Path, help="a trained pipeline of CIFAR's UNet")
    parser.add_argument("--allocate", choices=["uniform", "latency"], default="uniform")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS),
                        help="of diffc's own engines")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--most", type=float, default=90.0, help="seconds of timing per section")
    parser.add_argument(
        "--limit", type=float, default=30.0, help="minutes; no section begins later"
    )
    parser.add_argument("--again", action="store_true", help="sections that are there already too")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    args.work = args.work.resolve() / args.allocate
    return args


def main() -> None:
    """Run the sections that are missing; write each when it is done."""
    args = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    start = time.monotonic()
    held = json.loads(args.out.read_text()) if args.out.exists() else {}
    sections = held.get("sections", {})
    for name in args.models:
        for batch in args.batch:
            key = f"{name}, batch {batch}"
            if (key in sections and not args.again) or time.monotonic() - start > args.limit * 60:
                continue
            say(key)
            if args.prepare:
                subject = Subject(args, name)
                peers(subject, batch)
                ours(subject, batch)
                continue
            sections[key] = section(args, name, batch)
            sections[key]["environment"] = read_environment().model_dump(mode="json")
            sections[key]["versions"] = {p: _version(p) for p in PACKAGES}
            whole = {"optimum": optimum_reason(), "sections": sections}
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(whole, indent=1) + "\n")
            print(json.dumps({key: sections[key]["figures"]}, indent=1), flush=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
