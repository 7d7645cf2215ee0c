"""The section of docs/results.md on plans by latency (bench/latency_plans.py)."""

from __future__ import annotations

from typing import Any

from page_parts import day, machine, percent, table


def latency_plans(found: dict[str, Any]) -> list[str]:
    """What plans lose for time: importance, and the error that the repair leaves."""
    rows, targets = [], targets_of(found)
    for model, plans in found["models"].items():
        least = {name.split()[0]: one["lost"] for name, one in plans.items()
                 if name.split()[1:] == ["0"]}  # fmt: skip
        for name, one in plans.items():
            cut = name.split()[0]
            lost = f"{one['lost'] / least[cut]:.2f}" if least.get(cut) else ""
            held_out = "" if one["held_out"] is None else f"{one['held_out']:.4f}"
            rows.append([
                model, name, f"{one['predicted']:.3f}", lost, error(one["cut"], 4),
                error(one["repaired"] or one["cut"], 5), held_out, str(len(one["left_out"])),
                *(measured(one, target) for target in targets),
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
        f"except where a row names another target.{further(found)}\n",
        *table(heads, rows),
    ]


def targets_of(found: dict[str, Any]) -> list[str]:
    """The targets on which some plan's engine was timed."""
    plans = [one for rows in found["models"].values() for one in rows.values()]
    return list(dict.fromkeys(name for one in plans for name in one.get("speedup") or {}))


def error(errors: dict[str, float] | None, digits: int) -> str:
    """The error to the dense network; empty where nobody trained it, for then it says nothing."""
    return "" if errors is None else f"{errors['to_dense']:.{digits}f}"


def further(found: dict[str, Any]) -> str:
    """What to say of networks with random weights, and of numbers that older files lack."""
    plans = [(name, one) for name, rows in found["models"].items() for one in rows.values()]
    names = dict.fromkeys(name for name, one in plans if one["cut"] is None)
    speedups = [speedup for _, one in plans for speedup in (one.get("speedup") or {}).values()]
    words = ""
    if names:
        words = f" Nobody trained {', '.join(names)}: their errors would say nothing."
    if any("saved" in one for one in speedups):
        words += (" Where a last number follows, it is the share of the dense network's time that "
                  "was saved over the share of its MACs.")  # fmt: skip
    return words


def measured(plan: dict[str, Any], target: str) -> str:
    """What a plan's engine won on a target; empty where it was not timed."""
    speedup = (plan.get("speedup") or {}).get(target)
    if speedup is None:
        return ""
    low, high = speedup["ci95"]
    text = f"{speedup['median']:.2f}x [{low:.2f}, {high:.2f}], {speedup['efficiency']:.3f}"
    if "saved" in speedup:
        low, high = speedup["efficiency_ci95"]
        saved = speedup["saved"]
        text += f" [{low:.3f}, {high:.3f}], {saved['median']:.3f}"
        text += f" [{saved['ci95'][0]:.3f}, {saved['ci95'][1]:.3f}]"
    return text
