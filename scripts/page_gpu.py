"""docs/results.md's sections on GPUs, from what ``bench.gpu`` left in bench/results/gpu/DEVICE.

    section     a device: a heading, and one part for each thing that was measured
    rehearsed   one line on the rehearsal without a GPU; no figure of it is shown

A part is a function of all of the device's results and names the pictures that belong to it. A part
of which nothing was measured is left out; what was skipped or failed is listed at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from page_parts import UNDATED, day, fold, loops, machine, ratio, table

Rows = list[dict[str, Any]]
ANCHOR = "torch eager, dense"


def section(folder: Path, show: Callable[[Path], str]) -> list[str]:
    """Everything that one run of ``bench.gpu`` found. show: a picture -> its line."""
    every = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]
    found = [row for row in every if isinstance(row, dict) and "piece" in row]
    lines = [f"## {folder.name}\n"]
    if found:
        newest = max(found, key=lambda row: row["date"])
        lines.append(machine(newest["environment"], dates(found)))
    for title, part, pictures in PARTS:
        figures = part(found)
        if figures:
            drawn = [show(path) + "\n" for path in sorted(folder.glob(pictures or "none"))]
            lines += [f"### {title}\n", *fold([*figures, *drawn])]
    undone = [f"- {row['piece']}/{row['name']}: {said}" for row in found for said in _undone(row)]
    return [*lines, *(["### Not done\n", *undone, ""] if undone else [])]


def rehearsed(path: Path) -> list[str]:
    """How many jobs a rehearsal on a CPU did and why it did not do the others."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    states = [job["state"] for job in found["jobs"].values()]
    done, skipped = states.count("done"), states.count("skipped")
    others = len(states) - done - skipped
    reasons = sorted({job["reason"] for job in found["jobs"].values() if job["state"] == "skipped"})
    return [
        f"Rehearsed on {day(found)} on a CPU with small networks: {done} jobs done, {skipped} "
        f"skipped with their reasons{f', {others} neither' if others else ''}; nothing was "
        "measured on a GPU.\n",
        *(f"- skipped: {reason}" for reason in reasons),
        "",
    ]


def dates(rows: Rows) -> str:
    """From when to when."""
    days = sorted({day(row) for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else UNDATED


def _undone(row: dict[str, Any]) -> Iterator[str]:
    for what in ("skipped", "failed", "unfinished"):
        if what in row:
            yield f"{what}: {row[what]}"


def _when(rows: Rows) -> str:
    return f"*{dates(rows)}*\n"


# --- the parts ------------------------------------------------------------------------------------


def tests(found: Rows) -> list[str]:
    rows = [row for row in found if "counts" in row]
    return [
        f"The tests marked `gpu`, {day(row)}: "
        + ", ".join(f"{number} {what}" for what, number in row["counts"].items()) + ".\n"
        for row in rows
    ]  # fmt: skip


def figures(found: Rows) -> list[str]:
    """Efficiency of both ways to cut, and the best over torch eager; network by network."""
    left, lines = macs_left(found), []
    for (network, batch), rows in networks(found).items():
        best = max(
            (figure["over_torch_eager"]["median"], label) for row in rows
            for label, figure in row["rows"].items()
        )  # fmt: skip
        for row in rows:
            by = {a: efficiency(row, a, left) for a in ("latency", "uniform")}
            if by["latency"]:
                over = f"{by['latency'] / by['uniform']:.2f}" if by["uniform"] else "-"
                shown = [f"{value:.3f}" if value else "-" for value in by.values()]
                fastest = f"{best[1]}: {best[0]:.2f}"
                lines.append([f"{network}, batch {batch}", row["target"], *shown, over, fastest])
    heads = ["network", "target", "efficiency, latency widths", "uniform unaligned",
             "latency over uniform", "best over dense torch eager"]  # fmt: skip
    about = "Efficiency is the speed-up over the same target's dense engine times the MACs left.\n"
    return [_when(engines_of(found)), about, *table(heads, lines)] if lines else []


def ladder(found: Rows) -> list[str]:
    """torch eager -> the best torch -> a dense engine -> unaligned widths -> latency widths."""
    lines = []
    for (network, batch), rows in networks(found).items():
        rungs = list(rungs_of(rows))
        if len(rungs) < 2:
            continue
        before, shown = 1.0, []
        for label, figure in rungs:
            over = figure["over_torch_eager"]["median"]
            shown.append([label, f"{figure['latency_ms']['p50']:.3f}", f"{over:.2f}",
                          f"{over / before:.2f}"])  # fmt: skip
            before = over
        heads = [f"{network}, batch {batch}", "p50, ms", "over torch eager", "this step"]
        lines += table(heads, shown)
    return [_when(engines_of(found)), *lines] if lines else []


def rungs_of(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, figures) of one network's rungs, those that are there."""
    every = {row["target"]: row["rows"] for row in rows}

    def over(pair: tuple[str, dict[str, Any]]) -> float:
        return pair[1]["over_torch_eager"]["median"]

    anchors = [(ANCHOR, held[ANCHOR]) for held in every.values() if ANCHOR in held]
    yield from anchors[:1]
    torch = [(label, figure) for label, figure in every.get("torch", {}).items()
             if label.endswith(", dense") and label != ANCHOR]  # fmt: skip
    if torch:
        yield max(torch, key=over)
    cut = [(f"{name}, latency", held[f"{name}, latency"]) for name, held in every.items()
           if f"{name}, latency" in held]  # fmt: skip
    if cut:
        best = max(cut, key=over)[0].split(", ")[0]
        for allocation in ("dense", "uniform", "latency"):
            if f"{best}, {allocation}" in every[best]:
                yield f"{best}, {allocation}", every[best][f"{best}, {allocation}"]


def engines(found: Rows) -> list[str]:
    left = macs_left(found)
    return [line for row in engines_of(found) for line in _engines(row, left)]


def _engines(row: dict[str, Any], left: dict[str, float]) -> list[str]:
    """One target's engines."""
    rows = []
    for label, figure in row["rows"].items():
        share = efficiency(row, label.split(", ")[1], left, label)
        rows.append([label, f"{figure['latency_ms']['p50']:.3f}",
                     ratio(figure["over_torch_eager"]), ratio(figure["over_dense"]),
                     f"{share:.3f}" if share else ""])  # fmt: skip
    heads = [row["name"], "p50, ms", "over torch eager", "over dense", "efficiency"]
    absent = [f"- {label}: {reason}" for label, reason in row["absent"].items()]
    return [*table(heads, rows), *absent, *([""] if absent else []), _when([row])]


def anyway(found: Rows) -> list[str]:
    """What happened to TensorRT-RTX's engine for 8.0 and later on this GPU."""
    lines = []
    for row in found:
        if "opened" in row:
            ran = f"opened; {row.get('ms', 0):.3f} ms, outputs finite: {row.get('finite')}"
            said = ran if row["opened"] else f"refused: {row['error']}"
            lines.append(f"{day(row)}, `{row['name']}`: {said}\n")
            lines += [f"The target itself says: {row['status']}\n"] if row.get("status") else []
    return lines


def cost_tables(found: Rows) -> list[str]:
    """The last summary of each place where layers were timed: it holds the earlier ones."""
    last: dict[tuple, dict[str, Any]] = {}
    for row in sorted((r for r in found if "cost_tables" in r), key=lambda r: r["date"]):
        held = row["cost_tables"]
        last[held["target"], held["precision"], held["batch"]] = row
    lines = []
    for (target, precision, batch), row in last.items():
        rows = [[kind, facts["points"], *(f"{ms:.4f}" for ms in facts["ms"])]
                for kind, facts in row["cost_tables"]["kinds"].items()]  # fmt: skip
        heads = [f"{target}, {precision}, batch {batch}", "points", "least, ms", "median", "most"]
        lines += [*table(heads, rows), _when([row])]
    return lines


def memory(found: Rows) -> list[str]:
    rows = []
    measured = [row for row in found if row["piece"] == "memory" and "target" in row]
    for row in measured:
        sides = [row.get(side) or {} for side in ("dense", "latency")]
        if any("engine_bytes" in side for side in sides):
            cells = [cell for side in sides for cell in _bytes(side)]
            rows.append([row["name"], *cells])
    heads = ["", "dense engine, MB", "dense peak, MB", "latency engine, MB", "latency peak, MB"]
    about = ("Each engine in a fresh process; the peak is the GPU's where it could be read (GPU), "
             "the process's elsewhere.\n")  # fmt: skip
    return [_when(measured), about, *table(heads, rows)] if rows else []


def _bytes(side: dict[str, Any]) -> list[str]:
    if "engine_bytes" not in side:
        return ["-", str(side.get("absent", "-"))]
    on_gpu = side.get("device_bytes")
    peak = on_gpu or side.get("peak_bytes")
    shown = f"{peak / 1e6:.0f}{' (GPU)' if on_gpu else ''}" if peak else "-"
    return [f"{side['engine_bytes'] / 1e6:.1f}", shown]


def speed(found: Rows) -> list[str]:
    rows = [row for row in found if "distillation" in row]
    return [line for row in rows for line in (_when([row]), *loops(row["distillation"]))]


def study(found: Rows) -> list[str]:
    lines = []
    for row in found:
        if "study" in row:
            missing = "" if row["study"]["complete"] else "Not all rows are there yet.\n"
            lines += [_when([row]), row["table"], missing]
    return lines


PARTS: list[tuple[str, Callable[[Rows], list[str]], str]] = [
    ("Tests on the GPU", tests, ""),
    ("Widths that turn into time", figures, ""),
    ("The gain, cause by cause", ladder, ""),
    ("Engines", engines, "latency/*.png"),
    ("TensorRT-RTX's engine for 8.0 and later", anyway, ""),
    ("Cost tables", cost_tables, ""),
    ("Memory", memory, "memory/*.png"),
    ("Distillation's speed on the GPU", speed, "speed/*.png"),
    ("Quality at half the MACs on the GPU", study, "study/*.png"),
]


# --- what the parts ask ---------------------------------------------------------------------------


def engines_of(found: Rows) -> Rows:
    """Those with engines that were timed."""
    return [row for row in found if row["piece"] == "latency" and row.get("rows")]


def network_of(row: dict[str, Any]) -> str:
    """NETWORK-PRECISION."""
    return row["name"].removesuffix(f"-{row['target']}-batch{row['batch']}")


def networks(found: Rows) -> dict[tuple[str, int], Rows]:
    """(network and precision, batch) -> its rows, one for each target."""
    every: dict[tuple[str, int], Rows] = {}
    for row in engines_of(found):
        every.setdefault((network_of(row), row["batch"]), []).append(row)
    return every


def macs_left(found: Rows) -> dict[str, float]:
    """NETWORK-PRECISION-ALLOCATION -> the share of MACs that it leaves."""
    return {row["name"]: row["macs_left"] for row in found if "macs_left" in row}


def efficiency(
    row: dict[str, Any], allocation: str, left: dict[str, float], label: str | None = None
) -> float | None:
    """The speed-up over the same target's dense engine times the MACs left."""
    figure = row["rows"].get(label or f"{row['target']}, {allocation}")
    share = left.get(f"{network_of(row)}-{allocation}")
    over = figure["over_dense"] if figure else None
    return over["median"] * share if over and share else None
