"""The section of docs/results.md on plans by latency (bench/latency_plans.py)."""

from __future__ import annotations

from typing import Any

from page_parts import day, machine, percent, table


def latency_plans(found: dict[str, Any]) -> list[str]:
    """What plans lose for time: importance, and the error that the repair leaves."""
    rows, targets = [], targets_of(found)
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
                str(len(one["left_out"])), *(measured(one, target) for target in targets),
            ])  # fmt: skip
    heads = ["model", "plan", "time by the tables", "importance lost", "cut", "repaired",
             "held out", "branches left out", *targets]  # fmt: skip
    return [
        machine(found["environment"], day(found)),
        f"{percent(found['ratio'])} of the MACs cut. A plan is the kind of its cut, and what it "
        "may lose for time beyond the least importance, as a share of it. Time is a share of the "
        "dense network's; cut and repaired are squared errors of the output to the dense one's, "
        "on samples that the repair did not see; held out is the error of the predicted noise on "
        "Fashion-MNIST's test images, repaired. A column of a target has how many times as fast as "
        "the dense engine a call is there, its 95 % interval within this run, and the efficiency: "
        "the times as fast over what the MACs alone would give. Plans go by ort-cpu's tables, "
        "except where a row names another target.\n",
        *table(heads, rows),
    ]


def targets_of(found: dict[str, Any]) -> list[str]:
    """The targets on which some plan's engine was timed."""
    plans = [one for rows in found["models"].values() for one in rows.values()]
    return list(dict.fromkeys(name for one in plans for name in one.get("speedup") or {}))


def measured(plan: dict[str, Any], target: str) -> str:
    """What a plan's engine won on a target; empty where it was not timed."""
    speedup = (plan.get("speedup") or {}).get(target)
    if speedup is None:
        return ""
    low, high = speedup["ci95"]
    return f"{speedup['median']:.2f}x [{low:.2f}, {high:.2f}], {speedup['efficiency']:.3f}"
