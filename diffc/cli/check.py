"""diffc check and diffc baseline: the gate."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffc.cli import options as o
from diffc.errors import CheckFailed, Inconclusive, InputError, NotComparable, RequestError

if TYPE_CHECKING:
    from diffc.gate.result import CheckResult
    from diffc.gate.subject import Subject
    from diffc.recipe import CheckOptions

Candidate = Annotated[
    Path, typer.Argument(metavar="CANDIDATE", help="An output folder or an engine folder.")
]
BaselinePath = Annotated[
    Path | None,
    typer.Option("--baseline", help="An output folder, an engine folder or a stored baseline."),
]
BaselineReport = Annotated[
    Path | None,
    typer.Option("--baseline-report", help="Figures alone (weaker): same machine only."),
]
MaxSlowdown = Annotated[
    str | None, typer.Option("--max-slowdown", help="Of the median latency.  [5%]")
]
MaxMeanSlowdown = Annotated[
    str | None, typer.Option("--max-mean-slowdown", help="Of the mean.  [reported only]")
]
MaxMemory = Annotated[
    str | None, typer.Option("--max-memory", help="5% or 500MB, at the peak.  [5%]")
]
MaxEngineSize = Annotated[str | None, typer.Option("--max-engine-size", help="5% or 500MB.  [5%]")]
MaxBuildTime = Annotated[
    str | None, typer.Option("--max-build-time", help="50% or 90s.  [reported only]")
]
MinSsim = Annotated[
    float | None, typer.Option("--min-ssim", help="Of compressed to dense.  [reported only]")
]
MostSeconds = Annotated[
    float | None, typer.Option("--most-seconds", help="For one figure's verdict.  [60]")
]
LoopSteps = Annotated[
    int | None, typer.Option("--loop-steps", help="Of the sampling loop; 0: skip it.  [10]")
]
Batch = Annotated[
    str | None, typer.Option("--batch", help="Batch sizes to measure: 1,4.  [all built]")
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads of both sides.  [as built]")
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", help="Add the result here, as Markdown.")
]
Junit = Annotated[Path | None, typer.Option("--junit", help="Write the result here, as JUnit XML.")]
Badge = Annotated[Path | None, typer.Option("--badge", help="Write an SVG badge here.")]
History = Annotated[
    Path | None, typer.Option("--history", help="Add a line per engine to this .jsonl.")
]


def check_(
    candidate: Candidate,
    baseline: BaselinePath = None,
    baseline_report: BaselineReport = None,
    max_slowdown: MaxSlowdown = None,
    max_mean_slowdown: MaxMeanSlowdown = None,
    max_memory: MaxMemory = None,
    max_engine_size: MaxEngineSize = None,
    max_build_time: MaxBuildTime = None,
    min_ssim: MinSsim = None,
    target: o.Target = None,
    batch: Batch = None,
    threads: Threads = None,
    most_seconds: MostSeconds = None,
    loop_steps: LoopSteps = None,
    recipe: o.RecipeName = None,
    seed: o.Seed = None,
    markdown: Markdown = None,
    junit: Junit = None,
    badge: Badge = None,
    history: History = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Is CANDIDATE slower, larger or worse than the baseline? Both are measured now, in turn.

    \b
      diffc check OUT --baseline baselines/main
      diffc check OUT --baseline OUT-BEFORE --max-slowdown 3% --min-ssim 0.85
      diffc check engines/new --baseline engines/old --junit junit.xml --json

    \b
    exit code  0 pass   1 regressed   2 wrong request   3 inconclusive
               4 not comparable, or this machine is too noisy to judge
    """
    from diffc.cli.show import follow_measuring
    from diffc.gate.check import check, check_report
    from diffc.gate.subject import open_report, open_subject

    if (baseline is None) == (baseline_report is None):
        raise RequestError("give one of --baseline and --baseline-report")
    given = {
        "max_slowdown": max_slowdown, "max_mean_slowdown": max_mean_slowdown,
        "max_memory": max_memory, "max_engine_size": max_engine_size,
        "max_build_time": max_build_time, "min_ssim": min_ssim, "seconds": most_seconds,
        "loop_steps": loop_steps,
    }  # fmt: skip
    ours = open_subject(candidate)
    theirs = open_subject(baseline) if baseline else open_report(baseline_report or Path())
    if baseline and not theirs.engines:
        _figures_only(theirs)
    options = _options(ours, recipe, given)
    request = _request(ours, theirs, options, seed, target, batch, threads)
    work = check(request) if baseline else check_report(request)
    result = follow_measuring(work, quiet=quiet or json)
    _write(result, markdown, junit, badge, history)
    _show(result, json=json, quiet=quiet)
    _end(result)


def _options(ours: Subject, recipe: str | None, given: dict[str, Any]) -> CheckOptions:
    """The candidate's own recipe < --recipe < flags."""
    from diffc.recipe import resolve

    base = {"check": ours.options.model_dump(mode="json")} if ours.options else {}
    return resolve(family="", recipe=recipe, flags={"check": given}, base=base).check


def _request(
    ours: Subject, theirs: Subject, options: CheckOptions, seed: int | None,
    target: list[str] | None, batch: str | None, threads: int | None,
) -> Any:  # fmt: skip
    from diffc.gate.check import CheckRequest
    from diffc.gate.limits import limits
    from diffc.gate.rule import RuleOptions

    found = limits(options)
    rule = RuleOptions(
        limit=found.slowdown, pairs=options.pairs, most_pairs=options.most_pairs,
        seconds=options.seconds, seed=seed or 0,
    )  # fmt: skip
    return CheckRequest(
        ours, theirs, found, rule, targets=tuple(target or ()), threads=threads,
        batch=tuple(o.numbers("--batch", batch) or ()), loop_steps=options.loop_steps,
    )  # fmt: skip


def _figures_only(theirs: Subject) -> None:
    raise InputError(
        f"{theirs.path} was saved without its engines, so it cannot be measured again",
        hint=f"--baseline-report {theirs.path} compares with its figures alone (weaker)",
    )


def _write(
    result: CheckResult, markdown: Path | None, junit: Path | None, badge: Path | None,
    history: Path | None,
) -> None:  # fmt: skip
    from diffc.gate import outputs
    from diffc.gate.history import append_history, rows_of
    from diffc.stages import atomic_write

    if markdown is not None:  # added to, for a summary page has other steps' text already
        with markdown.open("a", encoding="utf-8") as file:
            file.write(outputs.to_markdown(result))
    if junit is not None:
        atomic_write(junit, outputs.to_junit(result))
    if badge is not None:
        atomic_write(badge, outputs.badge(result))
    if history is not None:
        append_history(history, rows_of(result))


def _show(result: CheckResult, *, json: bool, quiet: bool) -> None:
    from diffc.gate import outputs

    github = os.environ.get("GITHUB_ACTIONS") == "true"
    lines = outputs.annotation_lines(result, github=github)
    if json:
        sys.stdout.write(result.model_dump_json(indent=1) + "\n")
    elif not quiet:
        _table(result)
    if lines and (github or quiet):  # GitHub reads its commands from either stream
        print("\n".join(lines), file=sys.stderr)


def _table(result: CheckResult) -> None:
    from diffc.cli.show import console
    from diffc.gate import outputs
    from diffc.report.tables import Column, print_table, print_whole

    screen = console()
    heads = ("baseline", "candidate", "change", "99 %", "limit")
    columns = [Column(text=True), *map(Column, heads), Column("verdict", left=True)]
    rows: list[tuple[str, ...]] = []
    held = ""
    for figure in result.figures:
        where = outputs.place(figure)
        if where != held:
            rows.append((where, *("" for _ in columns[1:])))
            held = where
        rows.append((f"  {figure.name}", *outputs.cells(figure)))
    print_table(screen, columns, rows)
    for note in [*map(outputs.noise_line, result.noise), *result.notes]:
        print_whole(screen, f"  {note}", style="dim")
    if result.verdict == "pass":
        print_whole(screen, outputs.headline(result), style="bold")


def _end(result: CheckResult) -> None:
    """The exit code, through the error that has it."""
    from diffc.gate.outputs import headline, noise_line

    if result.verdict == "regressed":
        raise CheckFailed(headline(result))
    if result.verdict == "inconclusive":
        raise Inconclusive(headline(result), hint="try a quieter machine, or --most-seconds 300")
    if result.verdict == "unfit":
        worst = next(noise for noise in result.noise if noise.verdict == "unfit")
        raise NotComparable(
            f"this machine is too noisy to judge: {noise_line(worst)}",
            hint="end what else runs here, use fewer --threads, or allow a larger --max-slowdown",
        )


baseline_app = typer.Typer(
    help="Stored baselines for diffc check.", no_args_is_help=True, rich_markup_mode=None
)


@baseline_app.command("save")
def save_(
    out: o.OutFolder,
    to: Annotated[Path, typer.Option("--to", help="The baseline's folder.")] = Path(
        "baselines/main"
    ),
    figures_only: Annotated[
        bool, typer.Option("--figures-only", help="Small, without engines; checks are weaker.")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Store OUT's compressed engines and figures, and add them to the history beside.

    \b
      diffc baseline save OUT --to baselines/main
    """
    from diffc.cli.show import console
    from diffc.gate.baseline import save

    held = save(out, to, engines=not figures_only)
    if json:
        sys.stdout.write(held.model_dump_json(indent=1) + "\n")
    elif not quiet:
        console().print(f"{to}: {len(held.figures)} figures, {len(held.engines)} engines",
                        markup=False)  # fmt: skip


@baseline_app.command("list")
def list_(
    root: Annotated[Path, typer.Argument(metavar="FOLDER")] = Path("baselines"),
    csv: Annotated[bool, typer.Option("--csv", help="The history, as CSV on stdout.")] = False,
    json: o.Json = False,
) -> None:
    """List the baselines in FOLDER, or their history over time.

    \b
      diffc baseline list
      diffc baseline list baselines --csv
    """
    from diffc.cli.show import print_json
    from diffc.gate.baseline import HISTORY, found
    from diffc.gate.history import history_csv, read_history

    if csv:
        history = read_history(root / HISTORY)
        for note in history.notes:
            print(f"diffc: {note}", file=sys.stderr)
        sys.stdout.write(history_csv(history.rows))
        return
    held = found(root)
    if not held:
        raise InputError(f"{root} holds no baselines", hint="make one: diffc baseline save OUT")
    if json:
        keys = {"name", "created", "model", "digest", "engines"}
        print_json({"baselines": [{"folder": str(path), **one.model_dump(include=keys)}
                                  for path, one in held]})  # fmt: skip
        return
    for path, one in held:
        engines = ", ".join(dict.fromkeys(f"{f.target} {f.precision}" for f in one.figures))
        print(f"{path}  {one.created}  {one.model}  {engines}", file=sys.stderr)


@baseline_app.command("show")
def show_(
    folder: Annotated[Path, typer.Argument(metavar="BASELINE")], json: o.Json = False
) -> None:
    """Show a baseline: what it is of, where it was measured, its figures.

    \b
      diffc baseline show baselines/main
    """
    from diffc.gate.baseline import Baseline
    from diffc.report.units import milliseconds, size

    held = Baseline.read(folder)
    if json:
        sys.stdout.write(held.model_dump_json(indent=1) + "\n")
        return
    there = held.environment
    lines = [
        f"{held.name}: {held.model}, {held.digest[:12]}, saved {held.created}",
        f"measured on {there['cpu']}, {there['cores']} cores, {there['fingerprint']}",
    ]
    for one in held.figures:
        lines.append(
            f"  {one.target} {one.precision} batch {one.batch}: p50 {milliseconds(one.p50_ms)} "
            f"({len(one.samples_ms)} times), peak {size(one.peak_bytes)}, "
            f"engine {size(one.engine_bytes)}"
        )
    print("\n".join(lines), file=sys.stderr)
