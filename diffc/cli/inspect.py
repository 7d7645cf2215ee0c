"""diffc inspect and diffc plan: what can be cut, and what would be; a config.json is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffc.cli import options as o
from diffc.cli.compile import asked, run_chain

if TYPE_CHECKING:
    from pathlib import Path

    from diffc.models.source import Source
    from diffc.prune.plan import Plan
    from diffc.recipe import Recipe


def plan_(
    model: o.ModelOrOut,
    ratio: o.Ratio = None,
    ratio_of: o.RatioOf = None,
    allocate: o.Allocate = None,
    rounding: o.Rounding = None,
    importance: o.ImportanceMethod = None,
    threshold: o.Threshold = None,
    data: o.Data = None,
    prompts: o.Prompts = None,
    guidance: o.Guidance = None,
    target: o.Target = None,
    precision: o.Precision = None,
    threads: o.Threads = None,
    recipe: o.RecipeName = None,
    family: o.FamilyName = None,
    seed: o.Seed = None,
    out: o.Out = None,
    fresh: o.Fresh = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show widths, MACs and parameters before and after, without cutting anything.

    With --out, importance is measured and OUT/plan.json written; otherwise the plan is made from
    the config alone (uniform widths: nothing is ranked), on the meta device.

    \b
      diffc plan ./sdxl/unet --ratio 0.5
      diffc plan demo --ratio 0.5 --out OUT
      diffc plan ./ddpm-cifar10 --ratio-of channels --ratio 0.3 --rounding paper
    """
    flags = o.recipe_flags(
        ratio=ratio, ratio_of=ratio_of, allocate=allocate, rounding=rounding,
        importance=importance, threshold=threshold, data=data, prompts=prompts, guidance=guidance,
        target=target, precision=precision, threads=threads, seed=seed,
    )  # fmt: skip
    if out is not None:
        folder = run_chain(
            model, flags, "plan", out=out, recipe=recipe, family=family, fresh=fresh,
            json=json, quiet=quiet, show=False,
        )  # fmt: skip
        _show_written_plan(folder, json=json, quiet=quiet)
        return
    source, chosen, folder = asked(model, flags, recipe=recipe, family=family, need_weights=False)
    _show_plan(source.name, _plan(source, chosen, folder), json=json, quiet=quiet)


def inspect_(
    model: o.ModelOrOut,
    family: o.FamilyName = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show what can be cut (every group of channels, its cost, its importance) and the inputs.

    Importance is shown for an output folder in which it was measured.

    \b
      diffc inspect demo
      diffc inspect ./sdxl/unet --json
      diffc inspect OUT
    """
    from diffc.data.inputs import data_text_tokens, denoiser_specs
    from diffc.prune.planning import cost_of

    source, chosen, folder = asked(model, {}, family=family, need_weights=False)
    costs = cost_of(source, chosen.export.size, data_text_tokens(chosen))
    rows = _group_rows(costs, _scores(folder))
    specs = denoiser_specs(source, chosen)
    total = costs.cost(costs.dense)
    if json:
        from diffc.cli.show import print_json

        print_json(
            {
                "model": {"name": source.name, "class_name": source.class_name, **vars(total)},
                "inputs": [vars(spec) for spec in specs],
                "groups": rows,
            }
        )
    elif not quiet:
        _show_groups(source, rows, total)
        _show_inputs(specs)


def _plan(source: Source, recipe: Recipe, folder: Path) -> Plan:
    from diffc.chain.front import alignment
    from diffc.prune.planning import make_plan

    scores = _scores(folder)
    return make_plan(source, recipe, scores, {}, alignment(recipe))


def _scores(folder: Path) -> dict[str, Any] | None:
    from diffc.chain.front import SCORES
    from diffc.stages import STATE

    path = folder / STATE / SCORES
    if not path.exists():
        return None
    from safetensors.numpy import load_file

    return load_file(path)


def _group_rows(costs: Any, scores: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each group: its channels, what removing one saves, and its share of all importance."""
    total = sum(float(score.sum()) for score in scores.values()) if scores else 0.0
    rows = []
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


def _show_groups(source: Source, rows: list[dict[str, Any]], total: Any) -> None:
    from diffc.cli.show import console
    from diffc.report.tables import WIDEST, Column, print_table, print_whole
    from diffc.report.units import count

    ranked = any(row["importance"] is not None for row in rows)
    heads = ("kind", "size", "blocks", "MACs each", *(["share"] if ranked else []))
    cells = [
        (row["name"], row["kind"], str(row["channels"]), str(row["blocks"]),
         count(row["macs_per_channel"]), *([f"{row['importance']:.2%}"] if ranked else []))
        for row in rows
    ]  # fmt: skip
    screen = console()
    columns = [Column("group", text=True), *map(Column, heads)]
    print_table(screen, columns, cells, widest=WIDEST)
    screen.print()
    print_whole(
        screen,
        f"{source.name} ({source.class_name}): {count(total.params)} parameters, "
        f"{count(total.macs)} MACs, {len(rows)} groups"
        + ("; share: of all importance" if ranked else ""),
    )


def _show_inputs(specs: list[Any]) -> None:
    from diffc.cli.show import console
    from diffc.report.tables import print_whole

    takes = ", ".join(f"{spec.name} {('N', *spec.shape)}" for spec in specs)
    print_whole(console(), f"it takes {takes}".replace("'N'", "N").replace(",)", ")"))


def _show_written_plan(out: Path, *, json: bool, quiet: bool) -> None:
    from diffc.launch import process_rank
    from diffc.output import read_lock
    from diffc.prune.plan import Plan

    if process_rank() > 0:  # of the processes of one launch, one speaks
        return
    name = str(read_lock(out)["model"]["name"])
    plan = Plan.read(out / "plan.json")
    _show_plan(name, plan, json=json, quiet=quiet)
    if not (json or quiet):
        print(out / "plan.json")


def _show_plan(name: str, plan: Plan, *, json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    if json:
        from diffc.cli.show import print_json

        groups = [{k: v for k, v in asdict(g).items() if k != "keep"} for g in plan.groups]
        print_json(
            {
                "model": asdict(plan.dense),
                "compressed": asdict(plan.compressed),
                "groups": groups,
                "why": dict(plan.why),
            }
        )
    elif not quiet:
        _print_plan(name, plan)


def _print_plan(name: str, plan: Plan) -> None:
    from diffc.cli.show import console
    from diffc.report.tables import WIDEST, Column, print_table, print_whole
    from diffc.report.units import change, count

    screen = console()
    columns = [Column("group", text=True), *map(Column, ("kind", "dense", "kept", "step"))]
    rows = [(g.name, g.kind, str(g.size), str(g.kept), str(g.step)) for g in plan.groups]
    print_table(screen, columns, rows, widest=WIDEST)
    for what, before, after in (
        ("MACs", plan.dense.macs, plan.compressed.macs),
        ("parameters", plan.dense.params, plan.compressed.params),
    ):
        changed = f"{count(before)} -> {count(after)} ({change(before, after)})"
        print_whole(screen, f"{name}: {what} {changed}")
    timed = plan.why.get("latency", {}).get("measured")
    if timed is not None:
        low, high = (f"{share:.1%}" for share in timed["ci95"])
        print_whole(
            screen,
            f"{name}: latency {timed['dense_ms']:.3g} ms -> {timed['compressed_ms']:.3g} ms, "
            f"{timed['measured']:.1%} of dense, 95 % [{low}, {high}], as measured; "
            f"the cost tables expected {timed['predicted']:.1%}",
        )
    if plan.why.get("importance") is None:
        said = "widths alone: nothing was ranked (--out OUT measures importance)"
        print_whole(screen, said, style="dim")
