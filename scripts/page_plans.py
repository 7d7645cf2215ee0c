"""The section of docs/results.md on plans by latency (bench/latency_plans.py)."""

from __future__ import annotations

from typing import Any

from page_parts import day, machine, percent, table


def latency_plans(found: dict[str, Any]) -> list[str]:
    """What plans lose for time: importance, and the error that the repair leaves."""
    rows = []
    for model, plans in found["models"].items():
        least: dict[str, float] = {}
        for name, one in plans.items():
            cut = name.split()[0]
            least.setdefault(cut, one["lost"])  # the first plan of a cut loses least
            repaired = one["repaired"] or one["cut"]
            held_out = "" if one["held_out"] is None else f"{one['held_out']:.4f}"
            rows.append([
                model, name, f"{one['predicted']:.3f}", f"{one['lost'] / least[cut]:.2f}",
                f"{one['cut']['to_dense']:.4f}", f"{repaired['to_dense']:.5f}", held_out,
                ", ".join(one["left_out"]) or "none",
            ])  # fmt: skip
    heads = ["model", "plan", "time by the tables", "importance lost", "cut", "repaired",
             "held out", "left out"]  # fmt: skip
    return [
        machine(found["environment"], day(found)),
        f"{percent(found['ratio'])} of the MACs cut. A plan is the kind of its cut, and what it "
        "may lose for time beyond the least importance, as a share of it. Time is a share of the "
        "dense network's; cut and repaired are squared errors of the output to the dense one's, "
        "on samples that the repair did not see; held out is the error of the predicted noise on "
        "Fashion-MNIST's test images, repaired.\n",
        *table(heads, rows),
    ]
