"""What a run of a plan would take of time, memory and disk: estimates, before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc_runtime.json_types import JsonDict, JsonObject


def plan_estimates(plan: JsonObject, recipe: Recipe, source: Source | None) -> JsonDict:
    """Seconds of the whole run, bytes of its distillation, and bytes of OUT.

    Args:
        plan: As ``diffc plan --json`` has it.
        recipe: Every option.
        source: The model; None leaves the time out.

    Returns:
        ``seconds`` is None where the network's calls were not timed on this machine yet.
    """
    from diffc.durations import known_rate
    from diffc.stages.estimate import out_bytes, stage_seconds, training_bytes

    dense, small = plan["model"]["params"], plan["compressed"]["params"]
    rate = source and known_rate(source.class_name, source.config, recipe)
    seconds = None
    if rate and source:
        share = plan["compressed"]["macs"] / plan["model"]["macs"]
        seconds = sum(stage_seconds(source, recipe, "bench", rate, share).values())
    return {
        "seconds": seconds,
        "training_bytes": training_bytes(dense, small, rate or None, recipe),
        "out_bytes": out_bytes(dense, small, len(recipe.build.target)),
    }


def estimate_words(estimates: JsonObject) -> str:
    """The estimates of one plan in a sentence."""
    from diffc.cli.progress import about
    from diffc.report.units import size

    seconds = estimates["seconds"]
    training, disk = size(estimates["training_bytes"]), size(estimates["out_bytes"])
    if seconds is None:
        time = "the time is not known here yet (diffc compile times two seconds of calls)"
    else:
        time = f"the whole run takes {about(seconds)} on this machine, by the rate of its calls"
    return (
        f"estimates, not measured: {time}; distillation needs about {training} of memory for "
        f"weights, gradients{', activations' if seconds is not None else ''} and AdamW's state; "
        f"OUT takes {disk} in fp32"
    )


def run_cells(estimates: JsonObject) -> tuple[str, str, str]:
    """The time, the memory and the disk of one of several plans, as cells of a table."""
    from diffc.cli.progress import about
    from diffc.report.units import size

    seconds = estimates["seconds"]
    time = "-" if seconds is None else about(seconds).removeprefix("about ")
    return time, size(estimates["training_bytes"]), size(estimates["out_bytes"])


def columns_words(estimates: JsonObject) -> str:
    """What these cells are."""
    words = "time, memory and disk are estimates of a whole run here, memory that of distillation"
    if estimates["seconds"] is None:
        return f"{words}; no time is known yet: diffc compile times two seconds of calls"
    return f"{words}; the time is by the measured rate of the network's calls"
