"""What docs/results.md is written with: a machine in a line, tables, ratios, folds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

UNDATED = "date not recorded"


def machine(environment: dict[str, Any] | None, when: str = UNDATED) -> str:
    """Device, versions and date, in one line."""
    if not environment:
        return f"*{when}*\n"
    device = ", ".join(map(_gpu, environment.get("gpus") or []))
    device = device or f"{environment['cpu']}, {environment['cores']} cores, no GPU"
    versions = environment.get("packages") or {}
    kept = ("torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
            "tensorrt-rtx-cu13")  # fmt: skip
    said = ", ".join(f"{name} {versions[name]}" for name in kept if name in versions)
    return f"*{'; '.join(part for part in (device, said, when) if part)}*\n"


def _gpu(gpu: dict[str, Any] | str) -> str:
    """Its name, driver and CUDA, and whether it is a slice."""
    if isinstance(gpu, str):
        return gpu
    said = [f"{what} {gpu[key]}" for key, what in (("driver", "driver"), ("cuda", "CUDA"))
            if gpu.get(key)]  # fmt: skip
    said += [f"MIG {', '.join(gpu['mig'])}"] if gpu.get("mig") else []
    return f"{gpu['name']} ({', '.join(said)})" if said else str(gpu["name"])


def day(found: dict[str, Any]) -> str:
    """When a file was written, as far as it says so."""
    return str(found["date"])[:10] if found.get("date") else UNDATED


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Markdown; everything but the first column to the right."""
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def fold(lines: Iterable[str]) -> list[str]:
    """The lines, folded: on GitHub, and on the site through md_in_html."""
    return ['<details markdown="1">', "<summary>The figures</summary>\n", *lines, "</details>\n"]


def ratio(found: dict[str, Any] | None) -> str:
    """1.76 [1.75, 1.77]"""
    if not found:
        return "-"
    low, high = found["ci95"]
    return f"{found['median']:.2f} [{low:.2f}, {high:.2f}]"


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def loops(found: dict[str, Any]) -> list[str]:
    """Distillation's images per second, loop by loop."""
    rows = []
    for name, row in found["wall"].items():
        low, high = row.get("speedup_range", (1, 1))
        over = f"{row['speedup']:.2f} [{low:.2f}, {high:.2f}]" if "speedup" in row else ""
        rows.append([name, f"{row['images_per_s']:.1f}", over])
    threads, torch, batch = found["threads"], found["torch"], found["batch"]
    return [
        f"*torch {torch}, {found.get('device', 'cpu')}, {threads} thread(s), batch {batch}, load "
        f"{found['load_average'][0]:.1f} before*\n",
        *table(["loop", "images per second", "over the plain loop [least, most]"], rows),
    ]
