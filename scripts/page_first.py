"""The first table of docs/results.md: the five figures to read before all others.

Each row is a function of the folder of results. It gives None where its file is not there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_parts import percent, ratio, table


def first_rows(results: Path) -> list[str]:
    """The table; empty where nothing was measured."""
    rows = [row for make in ROWS if (row := make(results)) is not None]
    return ["## Five figures to read first\n", *table(["", ""], rows)] if rows else []


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _job(results: Path) -> list[str] | None:
    demo = _read(results / "demo.json")
    if demo is None:
        return None
    cores = demo["environment"]["cores"]
    what = f"the demo from its weights to checked engines, on {cores} cores"
    return [what, f"{demo['seconds']:.0f} s, {percent(demo['macs_left'])} of the MACs left"]


def _image(results: Path) -> list[str] | None:
    demo = _read(results / "demo.json")
    if demo is None:
        return None
    ssim = demo["quality"]["ssim"]
    within = f"[{ssim['ci95'][0]:.3f}, {ssim['ci95'][1]:.3f}]"
    figure = f"{ratio(demo['loop_speedup'])} times as fast, SSIM {ssim['mean']:.3f} {within}"
    loops = f"({ssim['loop']}), beside the dense one ({ssim['reference_loop']})"
    return [f"an image of the compressed demo {loops}", figure]


def _peers(results: Path) -> list[str] | None:
    peers = _read(results / "peers.json")
    if peers is None:
        return None
    names = ("compressed over fastest dense peer, fp32", "compressed over torch-pruning's, fp32")
    dense, pruned = (
        [s["figures"][name]["median"] for s in peers["sections"].values() if name in s["figures"]]
        for name in names
    )
    what = f"compressed fp32 engines beside other tools, {len(dense)} networks and batches"
    figure = f"{_range(dense)} times the fastest dense engine, {_range(pruned)} times torch-pruning"
    return [what, figure]


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else "-"


def _quality(results: Path) -> list[str] | None:
    quality = _read(results / "quality.json")
    ours = "ours, depth too, repaired"
    named = {"dense": "dense", ours: "diffc", "reference + finetuning": "the published rule"}
    rows = quality["rows"] if quality is not None else {}
    named = {row: words for row, words in named.items() if row in rows}
    if ours not in named:
        return None
    steps = rows[ours]["steps"]
    what = f"Frechet distance of the demo at half the MACs, {steps} training steps"
    shown = [f"{words} {rows[row]['frechet']['value']:.1f}" for row, words in named.items()]
    return [what, ", ".join(shown)]


def _gate(results: Path) -> list[str] | None:
    gate = _read(results / "gate.json")
    if gate is None or not gate["trials"]:
        return None
    alarms, misses, trials = 0.0, 0.0, 0
    for run in gate["trials"]:
        trials += run["trials"]
        for name, row in run.items():
            if isinstance(row, dict) and "regressed" in row:
                if name.startswith("unchanged"):
                    alarms += row["regressed"] * run["trials"]
                elif name.startswith("+10 %"):
                    misses += (1 - row["regressed"]) * run["trials"]
    figure = f"{alarms:.0f} false alarms, {misses:.0f} slowdowns of 10 % missed"
    return [f"the gate in {trials} checks on busy machines", figure]


ROWS = (_job, _image, _peers, _quality, _gate)
