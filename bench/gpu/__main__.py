"""Everything that only a GPU can show, in one command; nothing is downloaded.

    python -m bench.gpu --seconds 600                     again and again: it goes on
    python -m bench.gpu --seconds 600 --only tests latency --networks cifar sd15
    python -m bench.gpu --seconds 600 --only latency --networks sd15 --allocations dense uniform
    python -m bench.gpu --small                           the whole on a CPU, in minutes

    environment   doctor, driver, MIG slices
    tests         the tests marked ``gpu``
    latency       cost tables and plans, engines of every allocation on every target, batch 1 and 8
    memory        peak memory of fresh processes
    speed         images per second of distillation
    study         quality at half the MACs on CIFAR-10 (--data: a folder or .npz)

Every job is a process of its own: one that dies takes nothing with it, one that runs out of time is
tried again by the next call (after the others, once it has done so twice), one that cannot be done
here is recorded with the reason, and is done once the reason is gone. Engines are timed as soon as
the networks that are quick to make are there, and again once widths were planned by latency. The
index is written after every job, pictures before the time is out. A summary of the cost tables is
in the results of the ``latency`` plans. README.md beside this file lists the packages.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from diffc_export.targets import target
from diffc_runtime import machine

from .jobs import Job, gives_way, is_done, run, skip
from .networks import NETWORKS
from .pictures import draw, write_index
from .variants import ALLOCATIONS, planning_target

PIECES = ("environment", "tests", "latency", "memory", "speed", "study")
TARGETS = ("ort-cuda", "trt", "trt-rtx", "torch")  # torch compiles for minutes
OUT = Path("build/gpu")  # ignored by git
PRECISIONS = ("fp16", "bf16", "fp32")
REHEARSAL = ("ort-cpu", "ort-cuda", "trt", "trt-rtx", "torch")
_ENDING = 0.05, 25.0  # the share of the time, and the most seconds, that are kept for pictures


def main() -> None:
    """See the top."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a job's process ends too
    end = time.monotonic() + args.seconds - min(_ENDING[0] * args.seconds, _ENDING[1])
    wanted = sorted(jobs(args), key=lambda pair: gives_way(args.out, pair[0]))
    try:
        for job, reason in wanted:
            if is_done(args.out, job, retry=args.retry, reason=reason):
                continue
            left = end - time.monotonic()
            if reason:
                skip(job, args.out, reason)
                said = f"skipped: {reason}"
            elif left < job.least:
                break
            else:
                said = run(job, args.out, left)
            write_index(args.out)
            print(f"{time.strftime('%H:%M:%S')} {job.piece}/{job.name}: {said}", flush=True)
    finally:
        write_index(args.out)
    draw(args.out)
    # retry is not asked again: what failed just now would be left for ever
    left_over = {job for job, reason in wanted if not is_done(args.out, job, reason=reason)}
    print(f"{len(left_over)} jobs are left: run the command again" if left_over
          else "nothing is left")  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help=f"the results' folder [{OUT}]")
    parser.add_argument("--seconds", type=float, default=600.0, help="stop after them")
    parser.add_argument("--only", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", choices=REHEARSAL)
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=list(ALLOCATIONS),
                        help="the networks to make; all that are there are measured")  # fmt: skip
    parser.add_argument("--batch", nargs="+", type=int)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="in this order")
    parser.add_argument("--data", type=Path, help="CIFAR-10, for the study")
    parser.add_argument("--small", action="store_true", help="small networks, on a CPU too")
    parser.add_argument("--retry", action="store_true", help="try failed jobs again")
    args = parser.parse_args()
    args.targets = args.targets or list(REHEARSAL if args.small else TARGETS)
    args.batch = args.batch or ([2] if args.small else [8, 1])
    args.precision = args.precision or (["fp32"] if args.small else ["fp16", "bf16"])
    return args


def jobs(args: argparse.Namespace) -> Iterator[tuple[Job, str]]:
    """(job, why it cannot be done here or empty), in the order in which they are worth most: all
    of the first precision before the next one, and the study, which takes what is left, last."""
    first, *others = args.precision
    order = [
        ("environment", _environment(args)),
        ("tests", _tests(args)),
        ("latency", _latency(args, first)),
        ("latency", _anyway(args, first)),
        ("memory", _memory(args, first)),
        ("speed", _speed(args)),
        *(pair for p in others for pair in (("latency", _latency(args, p)),
                                            ("memory", _memory(args, p)))),
        ("study", _study(args)),
    ]  # fmt: skip
    for piece, found in order:
        if piece in args.only:
            yield from found


def _job(args, piece: str, name: str, *work: object, least: float = 5.0) -> Job:
    always = ["--work", args.out.resolve() / "work", *(["--small"] if args.small else [])]
    return Job(piece, name, tuple(map(str, (*work, *always))), least)


def _environment(args) -> Iterator[tuple[Job, str]]:
    yield _job(args, "environment", "environment", "environment"), ""


def _tests(args) -> Iterator[tuple[Job, str]]:
    yield _job(args, "tests", "gpu", "tests", least=60.0), ""


def _latency(args, precision: str) -> Iterator[tuple[Job, str]]:
    """What takes longer than a call, planning by latency, holds up no other network either."""
    for piece in (_quick, _planned):
        for network in args.networks:
            yield from piece(args, network, precision)


def _anyway(args, precision: str) -> Iterator[tuple[Job, str]]:
    reason = _cannot_build("trt-rtx") if machine.gpu.gpus() else "no NVIDIA GPU here"
    yield _job(args, "latency", "trt-rtx-anyway", "anyway", "--network", args.networks[0],
               "--precision", precision, least=20.0), reason  # fmt: skip


def _quick(args, network: str, precision: str) -> Iterator[tuple[Job, str]]:
    """The networks that are made without measuring, and their engines but for torch's."""
    quick = [allocation for allocation in args.allocations if allocation != "latency"]
    for allocation in quick:
        yield _prepared(args, network, precision, allocation), ""
    if quick:
        others = [name for name in args.targets if name != "torch"]
        yield from _measured(args, network, precision, others)


def _planned(args, network: str, precision: str) -> Iterator[tuple[Job, str]]:
    """The network that is planned by latency, and every engine in turn with its own."""
    if "latency" in args.allocations:
        yield _prepared(args, network, precision, "latency"), planning_target()[1]
    yield from _measured(args, network, precision, args.targets)


def _prepared(args, network: str, precision: str, allocation: str) -> Job:
    return _job(args, "latency", f"{network}-{precision}-{allocation}", "prepare",
                "--network", network, "--precision", precision, "--allocation", allocation,
                "--batch", max(args.batch), least=20.0)  # fmt: skip


def _measured(args, network: str, precision: str, targets: list[str]) -> Iterator[tuple[Job, str]]:
    timing = 0.3 if args.small else 3.0
    for batch in args.batch:
        for name in targets:
            job = _job(args, "latency", f"{network}-{precision}-{name}-batch{batch}", "measure",
                       "--network", network, "--precision", precision, "--target", name,
                       "--batch", batch, "--timing", timing, least=20.0)  # fmt: skip
            yield job, _cannot_run(name)


def _memory(args, precision: str) -> Iterator[tuple[Job, str]]:
    for network in args.networks:
        for batch in args.batch:
            for name in args.targets:
                yield _job(
                    args, "memory", f"{network}-{precision}-{name}-batch{batch}", "memory",
                    "--network", network, "--precision", precision, "--target", name,
                    "--batch", batch, least=20.0,
                ), _cannot_run(name)  # fmt: skip


def _speed(args) -> Iterator[tuple[Job, str]]:
    yield _job(args, "speed", "cifar", "speed", least=60.0), ""


def _study(args) -> Iterator[tuple[Job, str]]:
    reason = "" if args.data else "no --data: CIFAR-10 as folders or an .npz is needed"
    data = args.data.resolve() if args.data else "none"
    yield _job(args, "study", "cifar-10", "study", "--data", data, least=90.0), reason


def _cannot_build(name: str) -> str:
    status = target(name).status()
    return "" if status.buildable else status.reason


def _cannot_run(name: str) -> str:
    status = target(name).status()
    return "" if status.runnable else status.reason


if __name__ == "__main__":
    main()
