"""The pictures of a run, made from its JSON files, and its index.

Engines: one picture per network, precision and batch. Memory, and distillation's speed: one each.
The study leaves its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from diffc_runtime.files import write_text


def results(out: Path, piece: str) -> list[dict]:
    """A piece's results, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted((out / piece).glob("*.json"))]


def everything(out: Path) -> list[dict]:
    """Every job's result in OUT; what else lies in OUT/work is none."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*/*.json"))]
    return [row for row in found if isinstance(row, dict) and "piece" in row]


def write_index(out: Path) -> None:
    """index.json: what was done, and what was not."""
    index = {f"{r['piece']}/{r['name']}": state(r) for r in everything(out)}
    write_text(out / "index.json", json.dumps(index, indent=1) + "\n")


def draw(out: Path) -> None:
    """Every picture that the results so far allow, and the index."""
    write_index(out)
    pairs: dict[str, list[dict]] = {}
    for row in results(out, "latency"):
        if row.get("rows"):
            network = row["name"].removesuffix(f"-{row['target']}-batch{row['batch']}")
            pairs.setdefault(f"{network}-batch{row['batch']}", []).append(row)
    for name, rows in pairs.items():
        _bars(name, rows, out / "latency" / f"{name}.png")
    _memory_bars(results(out, "memory"), out / "memory" / "memory.png")
    for row in results(out, "speed"):
        if "distillation" in row:
            _speed_bars(row, out / "speed" / f"{row['name']}.png")


def state(row: dict) -> str:
    """How a job ended, in a line."""
    for what in ("skipped", "failed"):
        if what in row:
            return f"{what}: {row[what]}"
    if "unfinished" in row:
        return f"unfinished: {row['unfinished']} ({row['tries']} tries)"
    if "counts" in row:
        return "done: " + ", ".join(f"{number} {what}" for what, number in row["counts"].items())
    return "done"


def _bars(name: str, rows: list[dict], path: Path) -> None:
    """Milliseconds of every engine; each bar is labelled with its factor over torch eager."""
    bars = {}
    for row in rows:
        for label, figures in row["rows"].items():
            bars.setdefault(label, figures)
    labels = sorted(bars, key=lambda label: -bars[label]["latency_ms"]["p50"])
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(labels) + 1.2))
    values = [bars[label]["latency_ms"]["p50"] for label in labels]
    hatches = ["//" if label.endswith("dense") else "" for label in labels]
    drawn = axes.barh(labels, values, color="#9ecae1", edgecolor="#1f4e79", hatch=hatches)
    factors = [f"{bars[label]['over_torch_eager']['median']:.2f}x" for label in labels]
    axes.bar_label(drawn, factors, padding=3)
    axes.set(xlabel="median latency, ms (hatched: dense; factors over dense torch eager)")
    axes.set_title(f"{name} on {_device(rows[0])}")
    axes.margins(x=0.15)
    figure.savefig(path, bbox_inches="tight", dpi=120)
    plt.close(figure)


def _memory_bars(rows: list[dict], path: Path) -> None:
    """Peak memory, dense and compressed: the GPU's where it was read, the process's elsewhere."""
    found = {}
    for row in rows:
        for side in ("dense", "latency"):
            figures = row.get(side) or {}
            peak = figures.get("device_bytes") or figures.get("peak_bytes")
            if peak:
                found[f"{row['name']}, {side}"] = peak / 1e6
    if not found:
        return
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(found) + 1.2))
    axes.barh(list(found), list(found.values()), color="#c7e9c0", edgecolor="#00441b")
    axes.set(xlabel="peak memory, MB")
    figure.savefig(path, bbox_inches="tight", dpi=120)
    plt.close(figure)


def _speed_bars(row: dict, path: Path) -> None:
    """Distillation's images per second, loop by loop."""
    wall = row["distillation"]["wall"]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(wall) + 1.2))
    drawn = axes.barh(list(wall), [loop["images_per_s"] for loop in wall.values()],
                      color="#dadaeb", edgecolor="#3f007d")  # fmt: skip
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.set(xlabel="images per second, teacher included")
    axes.set_title(f"distillation of {row['name']}'s student on {_device(row)}")
    axes.margins(x=0.15)
    figure.savefig(path, bbox_inches="tight", dpi=120)
    plt.close(figure)


def _device(row: dict) -> str:
    environment = row["environment"]
    gpus = [gpu["name"] for gpu in environment["gpus"]]
    return ", ".join(gpus) or f"{environment['cpu']}, {environment['cores']} cores"
