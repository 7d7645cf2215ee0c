"""diffc check and diffc baseline: the gate."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffc.cli import options as o
from diffc.errors import CheckFailed, Inconclusive, InputError, NotComparable, RequestError

if TYPE_CHECKING:
    from diffc.gate.check import CheckRequest
    from diffc.gate.pairing import Wanted
    from diffc.gate.result import CheckResult
    from diffc.gate.subject import Subject
    from diffc.recipe import Recipe

Candidate = Annotated[
    Path,
    typer.Argument(
        metavar="CANDIDATE", help="An output folder or an engine folder.", parser=o.user_path
    ),
]
BaselinePath = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        help="An output folder, an engine folder or a stored baseline.",
        parser=o.user_path,
    ),
]
BaselineReport = Annotated[
    Path | None,
    typer.Option(
        "--baseline-report", help="Figures alone (weaker): same machine only.", parser=o.user_path
    ),
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
    Path | None,
    typer.Option("--markdown", help="Add the result here, as Markdown.", parser=o.user_path),
]
Junit = Annotated[
    Path | None,
    typer.Option("--junit", help="Write the result here, as JUnit XML.", parser=o.user_path),
]
Badge = Annotated[
    Path | None, typer.Option("--badge", help="Write an SVG badge here.", parser=o.user_path)
]
History = Annotated[
    Path | None,
    typer.Option("--history", help="Add a line per engine to this .jsonl.", parser=o.user_path),
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
               4 not comparable, or this machine is too noisy to judge   70 a bug in diffc
    """
    from diffc.cli.show import follow_measuring
    from diffc.gate.check import check, check_report
    from diffc.gate.pairing import Wanted
    from diffc.gate.ready import check_wanted
    from diffc.gate.subject import open_report, open_subject
    from diffc.result_files import check_outputs

    if (baseline is None) == (baseline_report is None):
        raise RequestError("give one of --baseline and --baseline-report")
    given = {
        "max_slowdown": max_slowdown, "max_mean_slowdown": max_mean_slowdown,
        "max_memory": max_memory, "max_engine_size": max_engine_size,
        "max_build_time": max_build_time, "min_ssim": min_ssim, "seconds": most_seconds,
        "loop_steps": loop_steps,
    }  # fmt: skip
    ends = {"--markdown": markdown, "--junit": junit, "--badge": badge, "--history": history}
    wanted = Wanted(tuple(target or ()), tuple(o.numbers("--batch", batch) or ()), threads)
    check_wanted(wanted, seed or 0)
    ours = open_subject(candidate)
    theirs = open_subject(baseline) if baseline else open_report(baseline_report or Path())
    if baseline and not theirs.engines:
        _figures_only(theirs)
    request = _request(ours, theirs, _options(ours, recipe, given, seed), wanted)
    check_outputs(ends)
    work = check(request) if baseline else check_report(request)
    result = follow_measuring(work, quiet=quiet or json)
    _show(result, json=json, quiet=quiet)
    lost = _write(result, ends)
    _end(result, lost)


def _options(ours: Subject, recipe: str | None, given: dict[str, Any], seed: int | None) -> Recipe:
    """The candidate's own recipe < --recipe < flags."""
    from diffc.recipe import resolve

    base = {"check": ours.options.model_dump(mode="json")} if ours.options else {}
    return resolve(family="", recipe=recipe, flags={"check": given, "seed": seed}, base=base)


def _request(ours: Subject, theirs: Subject, recipe: Recipe, wanted: Wanted) -> CheckRequest:
    from diffc.gate.check import CheckRequest
    from diffc.gate.limits import limits
    from diffc.gate.rule import RuleOptions

    options = recipe.check
    allowed = limits(options)
    rule = RuleOptions(
        limit=allowed.slowdown, pairs=options.pairs, most_pairs=options.most_pairs,
        seconds=options.seconds, seed=recipe.seed,
    )  # fmt: skip
    return CheckRequest(
        ours, theirs, allowed, rule, targets=wanted.targets, threads=wanted.threads,
        batch=wanted.batch, loop_steps=options.loop_steps,
    )  # fmt: skip


def _figures_only(theirs: Subject) -> None:
    raise InputError(
        f"{theirs.path} was saved without its engines, so it cannot be measured again",
        hint=f"--baseline-report {theirs.path} compares with its figures alone (weaker)",
    )


def _write(result: CheckResult, ends: Mapping[str, Path | None]) -> list[InputError]:
    """Write every file that was asked for; returns what could not be written after all."""
    from diffc.gate import outputs
    from diffc.gate.history import append_history, rows_of
    from diffc.result_files import append_text, write_whole, writing

    ways: dict[str, Callable[[Path], None]] = {
        # added to, for a summary page has other steps' text already
        "--markdown": lambda path: append_text(path, outputs.to_markdown(result)),
        "--junit": lambda path: write_whole(path, outputs.to_junit(result)),
        "--badge": lambda path: write_whole(path, outputs.badge(result)),
        "--history": lambda path: append_history(path, rows_of(result)),
    }
    lost = []
    for flag, path in ends.items():
        if path is None:
            continue
        try:
            with writing(path, flag):
                ways[flag](path)
        except InputError as error:  # the others are written all the same
            lost.append(error)
    return lost


def _show(result: CheckResult, *, json: bool, quiet: bool) -> None:
    from diffc.cli.show import print_json
    from diffc.gate import outputs

    github = os.environ.get("GITHUB_ACTIONS") == "true"
    lines = outputs.annotation_lines(result, github=github)
    if json:
        print_json(result.model_dump(mode="json"))
        sys.stdout.flush()  # before any file: one that cannot be written loses nothing here
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
    heading = ""
    for figure in result.figures:
        where = outputs.place(figure)
        if where != heading:
            rows.append((where, *("" for _ in columns[1:])))
            heading = where
        rows.append((f"  {figure.name}", *outputs.cells(figure)))
    print_table(screen, columns, rows)
    for note in outputs.said_below(result):
        print_whole(screen, f"  {note}", style="dim")
    if result.verdict == "pass":
        print_whole(screen, outputs.headline(result), style="bold")


def _end(result: CheckResult, lost: Sequence[InputError]) -> None:
    """The exit code, through the error that has it; a verdict counts more than a lost file."""
    from diffc.gate.outputs import headline, noise_line

    for error in lost if result.verdict != "pass" else lost[1:]:
        print(f"diffc: {error}", file=sys.stderr)
    if result.verdict == "regressed":
        raise CheckFailed(headline(result))
    if result.verdict == "inconclusive":
        raise Inconclusive(headline(result), hint=_hint(result))
    if result.verdict == "unfit":
        worst = next(noise for noise in result.noise if noise.verdict == "unfit")
        raise NotComparable(
            f"this machine is too noisy to judge: {noise_line(worst, result)}",
            hint="end what else runs here, use fewer --threads, or allow a larger --max-slowdown",
        )
    if lost:
        raise lost[0]


def _hint(result: CheckResult) -> str:
    """What would decide an undecided check."""
    if any(figure.verdict == "inconclusive" and figure.pairs for figure in result.figures):
        return "try a quieter machine, or --most-seconds 300"
    if any(
        figure.verdict == "inconclusive" and figure.name == "engine" for figure in result.figures
    ):
        return "build what is missing, or name what is to be judged with --target and --batch"
    return "measure what is missing, or leave it out"


baseline_app = typer.Typer(
    help="Stored baselines for diffc check.", no_args_is_help=True, rich_markup_mode=None
)


@baseline_app.command("save")
def save_(
    out: o.OutFolder,
    to: Annotated[
        Path, typer.Option("--to", help="The baseline's folder.", parser=o.user_path)
    ] = Path("baselines/main"),
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
    from diffc.cli.show import console, print_json
    from diffc.gate.baseline import save

    baseline = save(out, to, engines=not figures_only)
    if json:
        print_json(baseline.model_dump(mode="json"))
    elif not quiet:
        said = f"{to}: {len(baseline.figures)} figures, {len(baseline.engines)} engines"
        console().print(said, markup=False)


@baseline_app.command("list")
def list_(
    root: Annotated[Path, typer.Argument(metavar="FOLDER", parser=o.user_path)] = Path("baselines"),
    csv: Annotated[bool, typer.Option("--csv", help="The history, as CSV on stdout.")] = False,
    json: o.Json = False,
) -> None:
    """List the baselines in FOLDER, or their history over time.

    \b
      diffc baseline list
      diffc baseline list baselines --csv
    """
    from diffc.cli.show import print_json
    from diffc.gate.baseline import HISTORY, baselines_in
    from diffc.gate.history import history_csv, read_history

    if csv:
        history = read_history(root / HISTORY)
        for note in history.notes:
            print(f"diffc: {note}", file=sys.stderr)
        sys.stdout.write(history_csv(history.rows))
        return
    baselines = baselines_in(root)
    if not baselines:
        raise InputError(f"{root} holds no baselines", hint="make one: diffc baseline save OUT")
    if json:
        keys = {"name", "created", "model", "digest", "engines"}
        print_json({"baselines": [{"folder": str(path), **one.model_dump(include=keys)}
                                  for path, one in baselines]})  # fmt: skip
        return
    for path, one in baselines:
        engines = ", ".join(dict.fromkeys(f"{f.target} {f.precision}" for f in one.figures))
        print(f"{path}  {one.created}  {one.model}  {engines}", file=sys.stderr)


@baseline_app.command("show")
def show_(
    folder: Annotated[Path, typer.Argument(metavar="BASELINE", parser=o.user_path)],
    json: o.Json = False,
) -> None:
    """Show a baseline: what it is of, where it was measured, its figures.

    \b
      diffc baseline show baselines/main
    """
    from diffc.cli.show import print_json
    from diffc.gate.baseline import Baseline
    from diffc.report.units import milliseconds, size

    baseline = Baseline.read(folder)
    if json:
        print_json(baseline.model_dump(mode="json"))
        return
    there = baseline.environment
    lines = [
        f"{baseline.name}: {baseline.model}, {baseline.digest[:12]}, saved {baseline.created}",
        f"measured on {there['cpu']}, {there['cores']} cores, {there['fingerprint']}",
    ]
    for one in baseline.figures:
        lines.append(
            f"  {one.target} {one.precision} batch {one.batch}: p50 {milliseconds(one.p50_ms)} "
            f"({len(one.samples_ms)} times), peak {size(one.peak_bytes)}, "
            f"engine {size(one.engine_bytes)}"
        )
    print("\n".join(lines), file=sys.stderr)
