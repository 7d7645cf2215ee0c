"""diffc inspect and diffc plan: what can be cut, and what would be; a config.json is enough."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, TypedDict

from diffc.cli.command import Command, takes
from diffc.cli.estimates import (
    columns_words,
    estimate_words,
    fitted_estimates,
    plan_estimates,
    print_stage_needs,
    run_cells,
)
from diffc.cli.run import resolve_command, run_chain, with_ratios
from diffc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffc.models.source import Source
    from diffc.prune.cost import CostModel
    from diffc.prune.plan import Plan
    from diffc.prune.planning import Scores
    from diffc.recipe import Recipe
    from diffc_export.specs import TensorSpec
    from diffc_runtime.json_types import JsonDict, JsonObject


class BranchRow(TypedDict):
    """A part that can be left out whole, and what that saves."""

    name: str
    kind: str
    macs: float
    params: int


class GroupRow(TypedDict):
    """A group of channels, as ``diffc inspect --json`` has it.

    Attributes:
        macs_per_channel: MACs that the removal of one channel saves.
        importance: the group's share of all importance; None: importance was not measured.
    """

    name: str
    kind: str
    channels: int
    blocks: int
    macs_per_channel: float
    importance: float | None


@takes(
    *("model_or_out", "ratios", "fit", "lora", "cut", "ratio_of", "allocate", "rounding"),
    *("importance",),
    *("threshold", "data", "prompts", "guidance", "target", "precision", "threads"),
    *("resolution", "distill_steps", "block_steps", "distill_rank", "memory", "recipe"),
    *("family", "seed", "out", "fresh", "json", "quiet"),
    goes_on=True,
)
def plan_(command: Command, ratio: list[str] | None) -> None:
    """Show widths, MACs and parameters before and after, without cutting anything.

    With --out, importance is measured and OUT/plan.json written. For an output folder alone, its
    plan.json is shown. Otherwise the plan is made from the config alone (uniform widths: nothing
    is ranked), on the meta device.

    \b
      diffc plan ./sdxl/unet --ratio 0.2,0.3,0.5
      diffc plan demo --ratio 0.5 --out OUT
      diffc plan OUT
      diffc plan ./ddpm-cifar10 --ratio-of channels --ratio 0.3 --rounding paper
    """
    commands = with_ratios(command, ratio)
    if len(commands) > 1:
        _show_ratios(commands)
        return
    (command,) = commands
    if command.out is not None:
        _show_written_plan(run_chain(command, "plan", show=False), command)
        return
    written = _written_plan(command)
    if written is not None:
        _show_written_plan(written, command)
        return
    source, recipe, folder = resolve_command(command, need_weights=False)
    plan = _plan(source, recipe, folder)
    _show_plan(source.name, plan, fitted_estimates(plan, recipe, source), command)


@takes("model_or_out", "family", "json", "quiet")
def inspect_(command: Command) -> None:
    """Show what can be cut (every group of channels, its cost, its importance) and the inputs.

    Importance is shown for an output folder in which it was measured.

    \b
      diffc inspect demo
      diffc inspect ./sdxl/unet --json
      diffc inspect OUT
    """
    from diffc.cli.remembered import remembered

    source, recipe, folder = resolve_command(command, need_weights=False)
    scores = _scores_file(source, recipe, folder)
    answer = remembered(
        "inspect", source, recipe, scores, lambda: inspect_answer(source, recipe, scores)
    )
    if command.json:
        from diffc.cli.show import print_json

        print_json(answer)
    elif not command.quiet:
        _show_groups(answer["model"], answer["groups"])
        _show_branches(answer["branches"])
        _show_inputs(answer["inputs"])


def inspect_answer(source: Source, recipe: Recipe, scores: Path) -> JsonDict:
    """What can be cut, and the inputs."""
    from diffc.data.inputs import data_text_tokens, denoiser_specs
    from diffc.prune.planning import cost_of

    costs = cost_of(source, recipe.export.size, data_text_tokens(recipe))
    total = costs.cost(costs.dense)
    return {
        "model": {"name": source.name, "class_name": source.class_name, **vars(total)},
        "inputs": [_input_row(spec) for spec in denoiser_specs(source, recipe)],
        "groups": _group_rows(costs, _scores(scores)),
        "branches": _branch_rows(costs),
    }


def _show_ratios(commands: Sequence[Command]) -> None:
    """One row for each ratio; the network is traced once."""
    from diffc.cli.show import answers, print_json
    from diffc.report.tables import Column, print_table, print_whole
    from diffc.report.units import change, count

    if commands[0].out is not None:
        raise RequestError(
            "--out holds one plan, and several ratios were given",
            hint="give one --ratio with --out, or leave --out out",
        )
    plans = []
    for command in commands:
        source, recipe, folder = resolve_command(command, need_weights=False)
        plan = _plan(source, recipe, folder)
        estimates = fitted_estimates(plan, recipe, source)
        plans.append((recipe.prune.ratio, {**plan, "estimates": estimates}))
    if commands[0].json:
        print_json({"plans": [{"ratio": ratio, **plan} for ratio, plan in plans]})
        return
    if commands[0].quiet:
        return
    dense = plans[0][1]["model"]
    rows = [("dense", count(dense["macs"]), "", count(dense["params"]), "", "", "", "")]
    for ratio, plan in plans:
        after = plan["compressed"]
        macs = change(dense["macs"], after["macs"])
        params = change(dense["params"], after["params"])
        of_run = run_cells(plan["estimates"])
        cells = (f"{ratio:g}", count(after["macs"]), macs, count(after["params"]), params, *of_run)
        rows.append(cells)
    heads = ("MACs of a step", "change", "parameters", "change", "time", "memory", "disk")
    print_table(answers(), [Column("ratio", left=True), *map(Column, heads)], rows)
    words = columns_words([plan["estimates"] for _, plan in plans])
    print_whole(answers(), words, style="dim")
    for words in filter(None, dict.fromkeys(_not_ranked(plan) for _, plan in plans)):
        print_whole(answers(), words, style="dim")


def _not_ranked(plan: JsonObject) -> str:
    """What a plan without importance does not show; empty for one with it."""
    if plan["why"].get("importance") is not None:
        return ""
    words = "uniform widths, from the config alone: nothing was ranked"
    if plan.get("cut", "width") != "width":
        words = "no branch is left out, since nothing has scored them; " + words
    if plan.get("allocate", "uniform") == "uniform":
        return f"{words} (--out OUT measures importance)"
    allocation = {"auto": "latency or global"}.get(plan["allocate"], plan["allocate"])
    return (
        f"{words}. A run ranks the channels first, and its allocation is {allocation}: "
        "other widths and parameters at the same ratio (--out OUT measures and shows them)"
    )


def _written_plan(command: Command) -> Path | None:
    """The output folder that is asked for its plan and nothing else; None for another request."""
    from diffc.cli.flags.values import user_path
    from diffc.output import is_output
    from diffc.stages.plan import PLAN

    folder = user_path(command.model, "MODEL")
    asks_more = command.options or command.recipe or command.family or command.fresh
    return folder if not asks_more and is_output(folder) and (folder / PLAN).is_file() else None


def _plan(source: Source, recipe: Recipe, folder: Path) -> JsonDict:
    """The plan that the recipe's options give, from the cache where it is there."""
    from diffc.cli.remembered import remembered
    from diffc.data.loops import check_loops

    if source.scheduler:  # a config.json may come alone
        check_loops(source, recipe)
    scores = _scores_file(source, recipe, folder)
    return remembered("plan", source, recipe, scores, lambda: plan_answer(source, recipe, scores))


def plan_answer(source: Source, recipe: Recipe, scores: Path) -> JsonDict:
    """The plan that the recipe's options give, without the channels' numbers."""
    from diffc.prune.planning import make_plan
    from diffc.stages.plan import alignment
    from diffc.stages.preflight import lora_notes

    lora_notes(source)
    ranked, options = _scores(scores), recipe.prune
    if ranked is None and options.cut == "width,depth":
        recipe = _of_widths(recipe)
    try:
        plan = make_plan(source, recipe, ranked, {}, alignment(recipe))
    except RequestError as error:
        if recipe.prune.cut == options.cut:
            raise
        raise RequestError(
            f"{error} while all branches stay: nothing has scored them",
            hint="--out OUT scores them, and so does diffc compile",
        ) from None
    return {**_as_json(plan), "allocate": options.allocate, "cut": options.cut}


def _of_widths(recipe: Recipe) -> Recipe:
    """The recipe that cuts channels alone: without scores no branch can be chosen."""
    prune = recipe.prune.model_copy(update={"cut": "width"})
    return recipe.model_copy(update={"prune": prune})


def _scores_file(source: Source, recipe: Recipe, folder: Path) -> Path:
    """The importance that OUT holds.

    A path where nothing is, if it was measured on another model or as other options say: a plan is
    then made as if nothing was ranked, and says so.
    """
    from diffc.output import is_output, locked_recipe, read_lock
    from diffc.stage_records import STATE
    from diffc.stages.importance import SCORES

    path = folder / STATE / SCORES
    if path.is_file() and is_output(folder):
        is_same = read_lock(folder)["model"]["folder"] == str(source.folder.resolve())
        if is_same and _ranking(locked_recipe(folder)) == _ranking(recipe):
            return path
    return path.with_suffix("")


def _ranking(recipe: Recipe) -> JsonDict:
    """The options that importance follows from; how memory is used changes it by rounding alone."""
    from diffc.recipe.sections.training import OF_MEMORY

    importance = recipe.prune.importance.model_dump(exclude={*OF_MEMORY})
    data = recipe.data.model_dump(exclude={"batch"})
    more = recipe.model_dump(include={"seed", "loras"})
    return {"importance": importance, "data": data, "size": recipe.export.size, **more}


def _scores(path: Path) -> Scores | None:
    if not path.exists():
        return None
    from safetensors.numpy import load_file

    scores: Scores = load_file(path)
    return scores


def _input_row(spec: TensorSpec) -> JsonDict:
    """One input of the network; whole numbers that are drawn from a range have its ends."""
    row = dict(vars(spec))
    if isinstance(spec.example, range):
        row["example"] = {"from": min(spec.example), "to": max(spec.example)}
    return row


def _group_rows(costs: CostModel, scores: Scores | None) -> list[GroupRow]:
    total = sum(float(score.sum()) for score in scores.values()) if scores else 0.0
    rows: list[GroupRow] = []
    for i, group in enumerate(costs.groups):
        fewer = costs.dense.copy()
        fewer[i] -= group.runs
        saved = (costs.macs(costs.dense) - costs.macs(fewer)) / group.runs
        rows.append(
            {
                "name": group.name,
                "kind": group.kind,
                "channels": group.size,
                "blocks": group.runs,
                "macs_per_channel": saved,
                "importance": float(scores[group.name].sum()) / total if scores and total else None,
            }
        )
    return rows


def _branch_rows(costs: CostModel) -> list[BranchRow]:
    """Each part that can be left out whole: what that saves."""
    dense = costs.cost(costs.dense)
    rows: list[BranchRow] = []
    for place, branch in enumerate(costs.branches, start=len(costs.groups)):
        widths = costs.dense.copy()
        widths[place] = 0
        left = costs.cost(widths)
        rows.append(
            {
                "name": branch.name,
                "kind": branch.kind,
                "macs": dense.macs - left.macs,
                "params": dense.params - left.params,
            }
        )
    return rows


def _show_branches(branches: Sequence[BranchRow]) -> None:
    from diffc.cli.show import answers
    from diffc.report.tables import print_whole

    if branches:
        print_whole(
            answers(),
            f"{len(branches)} blocks and branches can be left out whole (--json lists them), "
            f"by --cut depth, or by a recipe's prune.widths: {{{branches[-1]['name']}: 0}}",
        )


def _show_groups(model: JsonObject, rows: Sequence[GroupRow]) -> None:
    from diffc.cli.show import answers
    from diffc.report.tables import WIDEST, Column, print_table, print_whole
    from diffc.report.units import count

    ranked = any(row["importance"] is not None for row in rows)
    heads = ["kind", "size", "blocks", "MACs each"] + ["share"] * ranked
    cells = []
    for row in rows:
        sizes = (str(row["channels"]), str(row["blocks"]), count(row["macs_per_channel"]))
        shares = [] if row["importance"] is None else [f"{row['importance']:.2%}"]
        cells.append((row["name"], row["kind"], *sizes, *shares))
    screen = answers()
    columns = [Column("group", text=True), *map(Column, heads)]
    print_table(screen, columns, cells, widest=WIDEST)
    screen.print()
    print_whole(
        screen,
        f"{model['name']} ({model['class_name']}): {count(model['params'])} parameters, "
        f"{count(model['macs'])} MACs, {len(rows)} groups"
        + ("; share: of all importance" if ranked else ""),
    )


def _show_inputs(specs: Sequence[JsonObject]) -> None:
    from diffc.cli.show import answers
    from diffc.report.tables import print_whole

    takes = ", ".join(f"{spec['name']} {('N', *spec['shape'])}" for spec in specs)
    print_whole(answers(), f"it takes {takes}".replace("'N'", "N").replace(",)", ")"))


def _show_written_plan(out: Path, command: Command) -> None:
    from diffc.cli.show import write_answer
    from diffc.launch import process_rank
    from diffc.output import locked_recipe, read_lock
    from diffc.prune.plan import Plan

    if process_rank() > 0:  # one process of a launch prints
        return
    name = str(read_lock(out)["model"]["name"])
    plan = _as_json(Plan.read(out / "plan.json"))
    source = None if command.out is None else resolve_command(command)[0]
    estimates = plan_estimates(plan, locked_recipe(out), source, out / "plan.json")
    _show_plan(name, plan, estimates, command)
    if not command.silent:
        write_answer(out / "plan.json")


def _show_plan(name: str, plan: JsonObject, estimates: JsonDict, command: Command) -> None:
    if command.json:
        from diffc.cli.show import print_json

        print_json({**plan, "estimates": estimates})
    elif not command.quiet:
        _print_plan(name, plan)
        print_stage_needs(estimates)
        settings = estimates.get("settings", [])
        _print_notes([*settings, estimate_words(estimates), _not_ranked(plan)])


def _print_notes(notes: Sequence[str]) -> None:
    from diffc.cli.show import answers
    from diffc.report.tables import print_whole

    for words in filter(None, notes):
        print_whole(answers(), words, style="dim")


def _as_json(plan: Plan) -> JsonDict:
    """The plan without the channels' numbers."""
    return {
        "model": asdict(plan.dense),
        "compressed": asdict(plan.compressed),
        "groups": [{k: v for k, v in asdict(g).items() if k != "keep"} for g in plan.units],
        "why": dict(plan.why),
    }


def _print_plan(name: str, plan: JsonObject) -> None:
    from diffc.cli.show import answers
    from diffc.report.tables import WIDEST, Column, print_table, print_whole
    from diffc.report.units import change, count

    screen = answers()
    columns = [Column("group", text=True), *map(Column, ("kind", "dense", "kept", "step"))]
    cells = ("name", "kind", "size", "kept", "step")
    rows = [tuple(str(group[cell]) for cell in cells) for group in plan["groups"]]
    print_table(screen, columns, rows, widest=WIDEST)
    for what, key in (("MACs", "macs"), ("parameters", "params")):
        before, after = plan["model"][key], plan["compressed"][key]
        changed = f"{count(before)} -> {count(after)} ({change(before, after)})"
        print_whole(screen, f"{name}: {what} {changed}")
    timed = plan["why"].get("latency", {}).get("measured")
    if timed is not None:
        low, high = (f"{share:.1%}" for share in timed["ci95"])
        print_whole(
            screen,
            f"{name}: latency {timed['dense_ms']:.3g} ms -> {timed['compressed_ms']:.3g} ms, "
            f"{timed['measured']:.1%} of dense, 95 % [{low}, {high}] within that run; "
            f"the cost tables expected {timed['predicted']:.1%}",
        )
