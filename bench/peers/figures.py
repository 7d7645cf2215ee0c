"""What one section says: each candidate's times, and ours against the fastest of theirs."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import Any

import numpy as np

from bench.peers.candidate import RUNTIMES, SIDES, Candidate, say
from bench.peers.ours import ours
from bench.peers.subject import Subject
from bench.peers.theirs import peers
from diffc.measure.latency import LatencyOptions, Timings, interleaved
from diffc.torch_target import SPINNING
from diffc_export.events import drain


def section(args, name: str, batch: int) -> dict[str, Any]:
    """Everything of one model at one batch, timed in turn."""
    subject = Subject(args, name)
    found = [*peers(subject, batch), *ours(subject, batch)]
    for one in found:
        if one.reason:
            say(f"{name}, batch {batch}: absent: {one.name}: {one.reason}")
    calls = {one.name: one.call for one in found if one.call is not None}
    load = os.getloadavg()
    options = LatencyOptions(rounds=args.rounds, seconds=args.seconds, most_seconds=args.most)
    settle = {one.name: SPINNING for one in found if one.runtime == "torch"}
    timings = drain(interleaved(calls, options, settle))
    left = {side: _macs(subject, side) / _macs(subject, "dense") for side in SIDES}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "parameters": sum(p.numel() for p in subject.dense.parameters()),
        "macs": subject.macs["dense"],
        "macs_left": left,
        "weights": "trained" if is_trained(args, name) else "random, last layer fitted",
        "allocate": args.allocate,
        "threads": args.threads,
        "load": [load, os.getloadavg()],
        "candidates": {one.name: _row(one, timings) for one in found},
        "figures": figures(found, timings),
    }


def is_trained(args, name: str) -> bool:
    """Whether the weights are somebody's, and not those of ``models.fit_last_layer``."""
    return name == "demo" or (name == "cifar" and bool(args.cifar))


def _macs(subject: Subject, side: str) -> float:
    return float(json.loads((subject.onnx(side) / "model.json").read_text())["macs"])


def _row(one: Candidate, timings: Timings) -> dict[str, Any]:
    row = {"runtime": one.runtime, "side": one.side, "precision": one.kind, **one.facts}
    if one.call is None:
        return row | {"absent": one.reason}
    eager_ratio = timings.ratio("peer: eager dense", one.name)
    times = timings.round_medians(one.name) * 1e3
    return row | {
        "ms": float(np.median(times)),
        "least_ms": float(times.min()),
        "rounds": len(times),
        "over_eager": {"median": eager_ratio.median, "ci95": eager_ratio.ci95},
    }


def figures(found: list[Candidate], timings: Timings) -> dict[str, Any]:
    """Ours against the fastest of theirs: in each precision, on each runtime, and against eager."""
    timed_ones = [one for one in found if one.call is not None and _passed(one)]

    def fastest(**wanted: str) -> str | None:
        fit = [o.name for o in timed_ones if all(getattr(o, k) == v for k, v in wanted.items())]
        return min(fit, key=lambda n: float(np.median(timings.round_medians(n)))) if fit else None

    def over(theirs: str | None, own: str | None) -> dict[str, Any] | None:
        if theirs is None or own is None:
            return None
        ratio = timings.ratio(theirs, own)
        return {"theirs": theirs, "ours": own, "median": ratio.median, "ci95": ratio.ci95,
                "pairs": ratio.pairs}  # fmt: skip

    made: dict[str, Any] = {}
    for kind in ("fp32", "bf16", "int8"):
        theirs = fastest(who="peer", side="dense", kind=kind)
        own = fastest(who="diffc", side="compressed", kind=kind)
        made[f"compressed over fastest dense peer, {kind}"] = over(theirs, own)
        stock = fastest(who="torch-pruning", side="compressed", kind=kind)
        made[f"compressed over torch-pruning's, {kind}"] = over(stock, own)
    for runtime in RUNTIMES:
        own = fastest(who="diffc", side="dense", kind="fp32", runtime=runtime)
        theirs = fastest(who="peer", side="dense", kind="fp32", runtime=runtime)
        made[f"dense over best dense peer, fp32, {runtime}"] = over(theirs, own)
    best = fastest(who="diffc", side="compressed")
    made["best over torch eager fp32"] = over("peer: eager dense", best)
    for side in SIDES:
        exact = fastest(who="diffc", side=side, kind="fp32")
        made[f"int8 over fp32, {side}"] = over(exact, fastest(who="diffc", side=side, kind="int8"))
    return {name: value for name, value in made.items() if value is not None}


def _passed(one: Candidate) -> bool:
    return bool(one.facts.get("parity", {"passed": True})["passed"])
