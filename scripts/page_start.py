"""docs/results.md on what short commands take: figures of bench/earlier_start.py."""

from __future__ import annotations

from typing import Any

from page_parts import day, machine, ratio, table


def earlier_start(found: dict[str, Any]) -> list[str]:
    """Each command's processor seconds of both revisions, and the ratio."""
    rows = [
        [
            f"`diffc {command}`" if command.startswith("--") else f"diffc {command}",
            *(f"{row['medians'][side]:.2f} s" for side in ("earlier", "present")),
            ratio(row["ratio"]),
            len(row["processor_seconds"]["present"]),
        ]
        for command, row in found["commands"].items()
    ]
    return [
        machine(found["environment"], day(found)),
        "Processor seconds of fresh processes in turn, medians, and the median of the pairs' "
        f"ratios; earlier: revision {found['revision']}. Each revision reuses a run of its own, "
        "and the present one's has more stages.\n",
        *table(["", "earlier", "present", "ratio", "pairs"], rows),
    ]
