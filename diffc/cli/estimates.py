"""What a run of a plan would take of time, memory and disk: estimates, before anything is run."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc.stages.counted_stages import CallBytes
    from diffc.stages.uncut_memory import UncutPart
    from diffc_runtime.json_types import JsonDict, JsonObject


def plan_estimates(
    plan: JsonObject, recipe: Recipe, source: Source | None, file: Path | None = None
) -> JsonDict:
    """Seconds of the whole run, bytes of its distillation, bytes of OUT, and what stages need.

    Args:
        plan: As ``diffc plan --json`` has it.
        recipe: Every option.
        source: The model; None leaves the time and activations out.
        file: OUT/plan.json, where the plan is one that was written.

    Returns:
        ``seconds`` is None where the network's calls were not timed on this machine yet, and ``by``
        says what it is made from;
        ``activations`` says whether they count in the training's bytes; ``tried`` has the
        precisions of each target that gets the fastest.
    """
    from diffc.durations import known_rate
    from diffc.models.shipped import is_shipped
    from diffc.stages.by_block import choose_by_block
    from diffc.stages.call_memory import call_bytes
    from diffc.stages.estimate import out_bytes, stage_seconds, trainings
    from diffc.stages.needs import stage_needs, tensor_sizes
    from diffc.stages.precision import tried_precisions
    from diffc.stages.uncut_memory import uncut_parts
    from diffc_runtime.machine.gpu import gpus

    dense, small = plan["model"]["params"], plan["compressed"]["params"]
    rate = source and known_rate(source.class_name, source.config, recipe)
    rate = None if rate and rate.shared else rate  # it may be many times too slow
    seconds: dict[str, float] = {}
    if rate and source:
        share = plan["compressed"]["macs"] / plan["model"]["macs"]
        seconds = stage_seconds(source, recipe, "bench", rate, share)
    calls: CallBytes = {}
    uncut: dict[str, UncutPart] = {}
    if source:  # of a model that ships a plan takes no PyTorch: a run has counted, or none has
        is_counted = not is_shipped(source.name)
        recipe = choose_by_block(source, recipe)[0] if is_counted else recipe
        calls = call_bytes(source, recipe, file, count=is_counted)
        uncut = uncut_parts(source, recipe, count=is_counted)
    training = trainings(dense, small, recipe, calls)
    needs = stage_needs(
        dense, small, recipe, calls, on_gpu=bool(gpus()), uncut=uncut,
        tensor_sizes=tensor_sizes(source) if source else (),
    )  # fmt: skip
    return {
        "seconds": sum(seconds.values()) if seconds else None,
        "by": rate.words if rate else "",
        "training_bytes": max(training.values(), default=None),
        "activations": bool(training) and calls.keys() >= training.keys(),
        "tried": {
            name: list(tried_precisions(name, "auto"))
            for name in recipe.build.target
            if recipe.build.of(name).precision == "auto"
        },
        "out_bytes": out_bytes(dense, small, len(recipe.build.target)),
        "stages": [asdict(replace(one, seconds=seconds.get(one.stage))) for one in needs],
    }


def fitted_estimates(plan: JsonObject, recipe: Recipe, source: Source) -> JsonDict:
    """The same with the settings that fit into the recipe's ``memory``, which ``settings`` names.

    Raises:
        RequestError: No settings do.
    """
    from diffc.stages.fit_memory import fit_memory

    parameters = plan["model"]["params"], plan["compressed"]["params"]
    fitted, settings = fit_memory(source, recipe, "bench", parameters)
    return {**plan_estimates(plan, fitted, source), "settings": settings}


def estimate_words(estimates: JsonObject) -> str:
    """The estimates of one plan in a sentence."""
    from diffc.cli.progress import about
    from diffc.report.units import size

    seconds = estimates["seconds"]
    disk = size(estimates["out_bytes"])
    if seconds is None:
        time = "the time is not known here yet (diffc compile times a second of calls)"
    else:
        time = f"the whole run takes {about(seconds)} on this machine, by {estimates['by']}"
    return "; ".join(
        [
            "estimates, not measured: " + time,
            *_training_words(estimates),
            f"OUT takes {disk} in fp32",
            *_precision_words(estimates),
        ]
    )


def _precision_words(estimates: JsonObject) -> Iterator[str]:
    """What rows of int8 and fp8 leave out, and how rows of ``--precision auto`` are made."""
    from diffc.stages.precision import CALIBRATED

    words = [one["stage"].split("-") for one in estimates["stages"]]
    lower = [one for one in CALIBRATED if one in {part for each in words for part in each[1:2]}]
    if lower:
        yield (
            f"rows of {' and '.join(lower)} take every layer to be in that precision: one that "
            "stays in fp32 takes 3 bytes a parameter more"
        )
    for name, tried in estimates["tried"].items():
        if len(tried) > 1:
            yield (
                f"rows of {name} have the most memory that {' or '.join(tried)} takes, and the "
                "disk of all"
            )


def _training_words(estimates: JsonObject) -> Iterator[str]:
    """What distillation needs; nothing of a run without."""
    from diffc.report.units import size

    if estimates["training_bytes"] is not None:
        activations = ", activations" if estimates["activations"] else ""
        yield (
            f"distillation needs about {size(estimates['training_bytes'])} of memory for "
            f"weights, gradients{activations} and AdamW's state"
        )


def run_cells(estimates: JsonObject) -> tuple[str, str, str]:
    """The time, the memory and the disk of one of several plans, as cells of a table."""
    from diffc.cli.progress import about
    from diffc.report.units import size

    seconds = estimates["seconds"]
    time = "-" if seconds is None else about(seconds).removeprefix("about ")
    training = estimates["training_bytes"]
    memory = "-" if training is None else size(training) + _mark(estimates)
    return time, memory, size(estimates["out_bytes"])


def _mark(estimates: JsonObject) -> str:
    """A mark at a distillation's memory without activations: beside others it would look small."""
    return "" if estimates["activations"] or estimates["training_bytes"] is None else " *"


def columns_words(plans: Sequence[JsonObject]) -> str:
    """What these cells are, of the estimates of every plan."""
    estimates = plans[0]
    words = "time, memory and disk are estimates of a whole run here, memory that of distillation"
    if any(map(_mark, plans)):
        words += " (*: without activations, which a run counts)"
    if estimates["seconds"] is None:
        return f"{words}; no time is known yet: diffc compile times a second of calls"
    return f"{words}; the time is by {estimates['by']}"


def print_stage_needs(estimates: JsonObject) -> None:
    """What each stage needs, as a table."""
    from diffc.cli.progress import about
    from diffc.cli.show import answers
    from diffc.report.tables import WIDEST, Column, print_table
    from diffc.report.units import size

    stages = estimates["stages"]
    on_gpu = any(one["gpu_bytes"] for one in stages)
    heads = ["memory", *(["GPU memory"] if on_gpu else []), "disk", "time"]
    rows = []
    for one in stages:
        seconds = one["seconds"]
        time = "-" if seconds is None else about(seconds).removeprefix("about ")
        gpu = [size(one["gpu_bytes"])] if on_gpu else []
        rows.append([one["stage"], size(one["memory_bytes"]), *gpu, size(one["disk_bytes"]), time])
    columns = [Column("stage (estimates)", text=True), *map(Column, heads)]
    print_table(answers(), columns, rows, widest=WIDEST)
