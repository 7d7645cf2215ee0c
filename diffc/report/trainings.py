"""What a compressed model was given after the cut, in words."""

from __future__ import annotations

from diffc.report.model import Report


def training_words(report: Report) -> str:
    """'100 steps of each block, 30 steps, 80 steps for ddim:2'; '' for an untrained model.

    '-' where the report does not say.
    """
    blocks, first = report.block_local or {}, report.distillation or {}
    if first.get("steps") is None:
        return "-"
    parts = [f"{blocks['steps']:,} steps of each block"] if blocks.get("is_used") else []
    is_trained = first["steps"] and first.get("is_used", True)
    parts += [f"{first['steps']:,} steps"] if is_trained else []
    loops = report.loop_distillation or {}
    if loops.get("steps"):
        parts.append(f"{loops['steps']:,} steps for {', '.join(loops.get('loops', ()))}")
    return ", ".join(parts)


def is_repaired(report: Report) -> bool:
    """Whether layers have the weights of the repair in closed form."""
    return bool((report.repair or {}).get("is_used"))
